"""Opening models: folder, hub cache, download, offline; and what is said when it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mipo_mlx.errors import ModelError
from mipo_mlx.models import load
from mipo_mlx.models.load import fingerprint, load_model, load_tokenizer

from . import archs


class Hub:
    """A stand-in for ``snapshot_download`` that notes its calls."""

    def __init__(self, folder: Path, *, cached: bool) -> None:
        self.folder, self.cached = folder, cached
        self.calls: list[dict[str, Any]] = []

    def __call__(self, name: str, **options: Any) -> str:
        self.calls.append({"name": name, **options})
        if options.get("local_files_only") and not self.cached:
            raise FileNotFoundError("not in the cache")
        return str(self.folder)


def test_a_folder_opens_with_its_window(llama_folder: Path) -> None:
    lm = load_model(str(llama_folder))
    assert lm.max_tokens == 512
    assert lm.path == llama_folder
    assert lm.name == str(llama_folder)
    assert len(lm.fingerprint) == 64
    assert not lm.model.training
    assert lm.model(mx.array([[1, 2, 3]])).shape == (1, 3, archs.VOCAB)
    assert lm.tokenizer.eos_token_ids == {2}


def test_a_folder_wins_over_the_hub(llama_folder: Path) -> None:
    hub = Hub(llama_folder, cached=True)
    load_model(str(llama_folder), download=hub)
    assert hub.calls == []


@pytest.mark.parametrize("offline", [False, True])
def test_the_local_cache_needs_no_network(llama_folder: Path, offline: bool) -> None:
    hub = Hub(llama_folder, cached=True)
    lm = load_model("owner/name", offline=offline, download=hub)
    assert lm.name == "owner/name"
    assert [call["local_files_only"] for call in hub.calls] == [True]


def test_download_takes_safetensors_and_text_only(llama_folder: Path) -> None:
    hub = Hub(llama_folder, cached=False)
    load_model("owner/name", download=hub)
    assert len(hub.calls) == 2
    patterns = hub.calls[1]["allow_patterns"]
    assert "local_files_only" not in hub.calls[1]
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in patterns)
    assert "model*.safetensors" in patterns


def test_a_cache_without_weights_is_downloaded_again(llama_folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    calls: list[bool] = []

    def download(name: str, **options: Any) -> str:
        calls.append(bool(options.get("local_files_only")))
        return str(part if calls[-1] else llama_folder)

    load_model("owner/name", download=download)
    assert calls == [True, False]


def test_offline_refuses_the_download(tmp_path: Path) -> None:
    hub = Hub(tmp_path, cached=False)
    with pytest.raises(ModelError, match="offline") as caught:
        load_model("owner/name", offline=True, download=hub)
    assert "--offline" in caught.value.hint
    assert len(hub.calls) == 1


def test_a_failed_download_names_the_model() -> None:
    def download(name: str, **options: Any) -> str:
        raise ConnectionError("no route")

    with pytest.raises(ModelError, match=r"owner/name.*ConnectionError") as caught:
        load_model("owner/name", download=download)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["./not/here", "/not/here", "a/b/c", "..", ""])
def test_a_name_that_is_neither_folder_nor_hub_id(name: str, tmp_path: Path) -> None:
    if name in ("..", ""):
        name = str(tmp_path / "file")
        Path(name).touch()
    with pytest.raises(ModelError, match="not a model folder"):
        load_model(name, download=Hub(tmp_path, cached=True))


def broken(folder: Path, source: Path, fault: str) -> None:
    shutil.copytree(source, folder)
    config = folder / "config.json"
    if fault == "no config":
        config.unlink()
    elif fault == "no weights":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif fault == "not JSON":
        config.write_text("{")
    elif fault == "no model_type":
        config.write_text("{}")
    elif fault == "unknown type":
        config.write_text(json.dumps({"model_type": "unheard_of"}))
    elif fault == "own code":
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_file": "m.py"}))
        (folder / "m.py").write_text("raise SystemExit('this must never run')")
    elif fault == "wrong weights":
        mx.save_safetensors(str(folder / "model.safetensors"), {"a": mx.zeros((1,))})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no config", r"no config\.json"),
        ("no weights", "no weights"),
        ("not JSON", "not valid JSON"),
        ("no model_type", "no model_type"),
        ("unknown type", "unheard_of"),
        ("own code", "m.py"),
        ("wrong weights", "cannot be opened"),
    ],
)
def test_a_faulty_folder_is_an_error_with_its_path(
    llama_folder: Path, tmp_path: Path, fault: str, message: str
) -> None:
    folder = tmp_path / "faulty"
    broken(folder, llama_folder, fault)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder))
    assert str(folder) in caught.value.message


def test_fingerprint_follows_content_not_place(llama_folder: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(llama_folder, twin)
    assert fingerprint(twin) == fingerprint(llama_folder)
    (twin / "notes.md").write_text("no part of the model")
    assert fingerprint(twin) == fingerprint(llama_folder)
    data = bytearray((twin / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (twin / "model.safetensors").write_bytes(bytes(data))
    assert fingerprint(twin) != fingerprint(llama_folder)


def test_fingerprint_trusts_the_names_of_the_hub_cache(llama_folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    shutil.copytree(llama_folder, linked)
    weights = linked / "model.safetensors"
    blob = tmp_path / load._content_hash(weights)
    weights.rename(blob)
    weights.symlink_to(blob)
    assert fingerprint(linked) == fingerprint(llama_folder)


def test_a_window_inside_text_config() -> None:
    assert load._window({"text_config": {"max_position_embeddings": 64}}) == 64
    assert load._window({"model_type": "x"}) is None


def test_a_tokenizer_opens_without_weights(llama_folder: Path, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in llama_folder.iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())

    def download(name: str, **options: Any) -> str:
        calls.append(options)
        return str(bare)

    tokenizer, window = load_tokenizer("owner/name", download=download)
    assert not any("safetensors" in pattern for pattern in calls[0]["allow_patterns"])
    assert window == load_model(str(llama_folder)).max_tokens
    own = load_model(str(llama_folder)).tokenizer
    assert tokenizer.encode("hello there") == own.encode("hello there")
    (bare / "tokenizer.json").write_text("broken")
    with pytest.raises(ModelError, match="tokenizer cannot be opened"):
        load_tokenizer(str(bare))


def test_a_model_whose_code_ends_the_process_is_an_error(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mlx-lm's OLMo does where a package of its own is missing."""
    from mlx_lm import utils

    def leave(*args: Any, **kwargs: Any) -> Any:
        raise SystemExit(1)

    monkeypatch.setattr(utils, "load_model", leave)
    with pytest.raises(ModelError, match="cannot be opened"):
        load_model(str(llama_folder))
