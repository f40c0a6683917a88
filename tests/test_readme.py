"""The README's commands and its library example do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
SMALL = ["--set", "max_steps=1", "--set", "eval_contexts=4", "--set", "prompts_per_context=1"]


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("mipo ")]


def test_the_walk_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mipo_cli.app import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.jsonl").write_text(
        "".join(f'{{"id": "u{n}", "text": "I live in town {n}."}}\n' for n in range(3))
    )
    (tmp_path / "prompts.jsonl").write_text(
        '{"id": "a", "text": "Where do I live?"}\n{"id": "b", "text": "Plan my day."}\n'
    )
    found = commands()
    assert [line.split()[1] for line in found] == ["run", "generate", "train", "eval", "report"]
    for line in found:
        words = shlex.split(line)[1:]
        if "--model" in words:  # the hub is out of reach here: the embedded model stands in
            words[words.index("--model") + 1] = "embedded"
        small = [] if words[0] == "report" else SMALL
        result = CliRunner().invoke(app, [*words, *small])
        assert result.exit_code == 0, (line, result.output)


def test_the_library_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mipo_mlx.config

    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    real = mipo_mlx.config.resolve

    def small(toml: Any = None, flags: Any = None) -> Any:
        limits = {"max_steps": 1, "eval_contexts": 4, "prompts_per_context": 1, "resamples": 100}
        return real(toml, {**flags, **limits})

    monkeypatch.setattr(mipo_mlx.config, "resolve", small)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {})
    assert "information/pmi" in capsys.readouterr().out
