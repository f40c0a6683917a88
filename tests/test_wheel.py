"""The wheel: what is in it, and that it works alone, away from the repository and the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

REFUSE = """
import socket


def refuse(self, address):
    raise OSError(f"refused: {address}")


socket.socket.connect = refuse
"""


def call(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in words], capture_output=True, text=True, timeout=900, **options
    )
    assert result.returncode == 0, f"{words}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
    return result  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
    names = set(sizes)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mipo_mlx", "mipo_cli"}
    for name in (
        "mipo_mlx/py.typed",
        "mipo_cli/py.typed",
        "mipo_cli/arena/page.html",
        "mipo_cli/arena/style.css",
        "mipo_cli/arena/keys.js",
        "mipo_mlx/tiny/model/model.safetensors",
        "mipo_mlx/tiny/model/PROVENANCE.json",
        "mipo_mlx/reporting/templates/report.html",
        "mipo_mlx/tiny/samples/contexts_heldout.jsonl",
    ):
        assert name in names
    for path in (ROOT / "mipo_mlx" / "recipes").rglob("*.*"):
        if path.suffix in (".toml", ".jsonl", ".json", ".csv"):
            assert str(path.relative_to(ROOT)) in names
    for folder, package in (("mipo_mlx", "."), ("mipo_cli", "cli")):
        for path in (ROOT / package / folder).rglob("*.py"):
            assert str(path.relative_to(ROOT / package)) in names
    assert sum(size for name, size in sizes.items() if "tiny/model" in name) <= 8 * 2**20


def test_it_runs_in_an_empty_environment_without_a_network(wheel: Path, tmp_path: Path) -> None:
    call(sys.executable, "-m", "venv", tmp_path / "env")
    binary = tmp_path / "env" / "bin"
    call(binary / "python", "-m", "pip", "install", "--quiet", wheel)
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(REFUSE)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path / "guard"),
        "PYTHONNOUSERSITE": "1",
    }
    help_text = call(binary / "mipo", "--help", cwd=tmp_path, env=environment).stdout
    assert "generate" in help_text
    small = ["--max-steps", "2", "--eval-contexts", "8", "--prompts-per-context", "1"]
    words = [binary / "mipo", "run", "out", "--offline", "--json", *small]
    summary = json.loads(call(*words, cwd=tmp_path, env=environment).stdout)
    assert summary["metrics"]["information/pmi"]["n"] > 0
    assert (tmp_path / "out" / "adapter" / "adapters.safetensors").is_file()
    assert "<svg" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    given = [f"--set={name}" for name in ("max_steps=1", "resamples=100", "task_max_tokens=8")]
    words = [binary / "mipo", "reproduce", "mmlu", "--model", "embedded", "--limit", "8", "--json"]
    result = json.loads(call(*words, *given, cwd=tmp_path, env=environment).stdout)
    assert result["results"][0]["metrics"]["tasks/mmlu/accuracy"]["n"] == 8
    assert "fixtures" in result["results"][0]["notes"][0]
    where = call(
        binary / "python", "-c", "import mipo_mlx; print(mipo_mlx.__file__)",
        cwd=tmp_path, env=environment,
    ).stdout  # fmt: skip
    assert str(tmp_path) in where
