"""What is kept of checks: where, for whom, and that nothing is lost when it cannot be kept."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mipo_mlx.inference import compat_check, path_cache
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.models.load import EVERY_PATH, Paths

from . import archs

ABOUT = {"model": "f" * 64, "check": "inference"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mipo"


def test_what_is_kept_is_for_this_user_model_device_and_code(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path_cache.recall(ABOUT) is None
    path_cache.remember(ABOUT, {"shares": True})
    assert path_cache.recall(ABOUT) == {"shares": True}
    assert path_cache.recall({**ABOUT, "model": "e" * 64}) is None
    (file,) = place.iterdir()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = json.loads(file.read_text())["key"]
    assert set(key) == {"device", "versions", "code", "model", "check"}
    assert {"mlx", "mlx-lm", "mipo-mlx"} <= set(key["versions"])
    here = path_cache.here()
    for other in ({**here, "device": "another"}, {**here, "versions": {"mlx": "0.1"}}):
        with monkeypatch.context() as patch:
            patch.setattr(path_cache, "here", dict(other).copy)
            assert path_cache.recall(ABOUT) is None
    with monkeypatch.context() as patch:
        patch.setattr(path_cache, "_code", lambda: "other code")
        assert path_cache.recall(ABOUT) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": 1, "found": {}}', "\0"])
def test_a_spoilt_file_is_made_anew(place: Path, text: str) -> None:
    path_cache.remember(ABOUT, {"shares": True})
    (file,) = place.iterdir()
    file.write_text(text)
    assert path_cache.recall(ABOUT) is None
    path_cache.remember(ABOUT, {"shares": False})
    assert path_cache.recall(ABOUT) == {"shares": False}


def test_a_place_that_cannot_be_written_is_no_fault(place: Path) -> None:
    place.parent.mkdir()
    place.write_text("a file where the directory should be")
    path_cache.remember(ABOUT, {"shares": True})
    assert path_cache.recall(ABOUT) is None


def test_a_mac_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(path_cache.sys, "platform", "darwin")
    assert path_cache.directory() == Path.home() / "Library" / "Caches" / "mipo"
    monkeypatch.setattr(path_cache.sys, "platform", "linux")
    assert path_cache.directory() == Path.home() / ".cache" / "mipo"


def test_a_model_is_tried_once(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[str] = []
    own = compat_check.find_paths

    def trying(lm: Any, rows: Any) -> tuple[Paths, bool]:
        tried.append(lm.name)
        return own(lm, rows)

    monkeypatch.setattr(compat_check, "find_paths", trying)
    for _ in range(2):
        assert open_model(str(llama_folder)).paths == EVERY_PATH
    assert tried == [str(llama_folder)]
    other = archs.write(tmp_path / "deepseek", "deepseek_v32")
    first, again = (open_model(str(other)).paths for _ in range(2))
    assert first == again and len(tried) == 2
    assert not first.shares and first.reasons


def test_faults_of_the_moment_are_not_kept(
    place: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **named: Any) -> Any:
        raise RuntimeError("[malloc] not enough memory")

    with monkeypatch.context() as patch:
        patch.setattr(compat_check.ways, "stepwise", failing)
        with pytest.raises(compat_check.ModelError, match="not enough memory"):
            open_model(str(llama_folder))
    real = compat_check.ways.scored

    def shared_fails(lm: Any, *args: Any) -> Any:
        return failing() if lm.shares else real(lm, *args)

    with monkeypatch.context() as patch:
        patch.setattr(compat_check.ways, "scored", shared_fails)
        assert not open_model(str(llama_folder)).shares
    assert not place.exists()
    assert open_model(str(llama_folder)).paths == EVERY_PATH


def test_paths_come_back_as_they_were() -> None:
    paths = Paths(shares=False, sampling="own", reasons=(("shares", "because"),))
    assert compat_check.from_record(json.loads(json.dumps(asdict(paths)))) == paths
