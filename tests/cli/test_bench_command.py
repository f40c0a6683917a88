"""``mipo bench`` as it is typed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mipo_cli.app import app
from mipo_mlx.bench import rounds


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MOST", 1)


def call(*words: str) -> str:
    result = CliRunner().invoke(app, ["bench", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_prints_markdown() -> None:
    text = call("--shape", "tiny", "--precision", "4bit", "--work", "S1", "--minutes", "60")
    assert text.startswith("### mipo bench: ")
    lines = [line for line in text.splitlines() if line.startswith("| tiny | 4bit |")]
    assert len(lines) == 2  # sampling, step
    cells = [cell.strip() for cell in lines[1].strip("|").split("|")]
    assert cells[2] == "S1" and float(cells[5]) > 0
    assert float(cells[11]) < 0.1  # half precision rounds


def test_it_prints_json() -> None:
    told = json.loads(
        call("--shape", "tiny", "--precision", "fp32", "--work", "S1", "--minutes", "60", "--json")
    )
    assert set(told) == {"machine", "rates", "sampling", "steps", "skipped"}
