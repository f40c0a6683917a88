"""What ``mipo check`` finds in a run whose files were changed, and that it writes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from typer.testing import CliRunner

from mipo_cli.app import app
from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.errors import ConfigError
from mipo_mlx.pipeline.check import check
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, file_hash

SMALL = {
    "max_steps": 1,
    "user_limit": 6,
    "prompt_limit": 4,
    "eval_contexts": 2,
    "resamples": 100,
    "retention": False,
    "memorization": False,
    "diversity_samples": 0,
    "cad": "",
}
WEIGHTS = "adapter/adapters.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    pipeline.run.run(run, resolve(flags=SMALL))
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def not_a_number(path: Path) -> None:
    arrays = dict(mx.load(str(path)))
    name = sorted(arrays)[0]
    arrays[name] = mx.full(arrays[name].shape, float("nan"))
    mx.save_safetensors(str(path), arrays)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def shorter(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def nan_in_json(path: Path) -> None:
    found = json.loads(path.read_text())
    found["metrics"]["information/pmi"]["base"] = float("nan")
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        (WEIGHTS, flip, "is not what 'mipo train' wrote"),
        (WEIGHTS, flip, "has changed since eval.json, answers.jsonl came of it"),
        (WEIGHTS, not_a_number, "cannot be read, or holds numbers that are not finite"),
        (WEIGHTS, zero, "cannot be read, or holds numbers that are not finite"),
        (WEIGHTS, Path.unlink, "is missing"),
        ("adapter/adapter_config.json", shorter, "is not what 'mipo train' wrote"),
        ("pairs.jsonl", shorter, "is not what 'mipo generate' wrote"),
        ("pairs.jsonl", shorter, "has changed since"),
        ("eval.json", nan_in_json, "holds numbers that are not finite"),
        ("eval.json", shorter, "holds lines that are no JSON"),
    ],
)
def test_every_change_is_found(
    run: Path, file: str, change: Callable[[Path], None], what: str
) -> None:
    assert check(run) == []
    change(run / file)
    before = {path: file_hash(path) for path in run.rglob("*") if path.is_file()}
    found = check(run)
    assert any(fault["file"] == file and fault["what"].startswith(what) for fault in found), found
    assert before == {path: file_hash(path) for path in run.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["check", str(run)])
    assert result.exit_code == 1
    assert f"{file} {what}" in result.stdout


def test_a_whole_run_passes_and_no_run_is_told(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(run)])
    assert (result.exit_code, result.stdout) == (0, f"{run}: all files are as they were written\n")
    with pytest.raises(ConfigError, match="no run"):
        check(tmp_path)


def test_drafts_of_killed_processes_go_with_the_next_write(run: Path) -> None:
    drafts = [run / ".4194000.eval.json", run / "adapter" / ".4194000.adapters.safetensors"]
    for draft in drafts:
        draft.write_text("half of it")
    with writing("report"):
        RunStore(run).write_text("report.md", "")
    assert not any(draft.exists() for draft in drafts)
