"""``mipo reproduce`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mipo_cli.app import app
from mipo_mlx.errors import MipoError
from mipo_mlx.pipeline import reproduce
from mipo_mlx.results import MetricRow


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["reproduce", *words])


def test_the_list_holds_every_cell() -> None:
    told = json.loads(call("--list", "--json").stdout)["cells"]
    assert len(told) == 40
    (cell,) = (row for row in told if row["cell"] == "gsm8k/llama-3.2-1b")
    assert cell["model"] == "meta-llama/Llama-3.2-1B-Instruct"
    assert cell["access"].startswith("gated")
    assert (cell["data"], cell["objective"]) == ("GSM8K", "prompt")
    assert cell["stated"] and cell["unknown"] and cell["chosen"]
    assert cell["reported"][0].startswith("base 22% [")
    shown = call("--list")
    assert shown.exit_code == 0
    for row in told:
        assert row["cell"] in shown.stdout  # whole, to be copied


def test_a_dry_run_tells_all_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = call("gsm8k/qwen2.5-7b", "--dry-run")
    assert shown.exit_code == 0, shown.output
    for part in (
        "learning_rate = 1e-05  (chosen)",
        "beta = 0.1  (stated)",
        "+0.9% on average",
        "Which problems of the training split were trained on.",
        "openai/gsm8k/main/train-00000-of-00001.parquet: size not known; MIT",
        "Qwen/Qwen2.5-7B-Instruct: about 14.2 GiB; open",
        "pairs: 7249",
        "run directory: runs/reproduce/gsm8k-qwen2.5-7b",
    ):
        assert part in shown.stdout, part
    told = json.loads(call("--all", "--dry-run", "--json").stdout)["cells"]
    assert len(told) == 40
    assert list(tmp_path.iterdir()) == []


def test_results_are_one_table_with_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = MetricRow(0.25, 0.5, 0.25, (0.1, 0.4), 0.01, 200, "share of answers")

    def run(cell: Any, on_progress: Any) -> reproduce.Result:
        if cell.recipe.name == "prism":
            raise MipoError("no room.", "make some")
        beside = reproduce.Beside(
            "base 22%", "hearsay", "tasks/gsm8k/accuracy", "base", value=0.22, measured=0.25
        )
        return reproduce.Result(
            cell=cell.name,
            run=str(cell.run),
            notes=cell.notes,
            metrics={"tasks/gsm8k/accuracy": row},
            reported=[beside],
        )

    monkeypatch.setattr(reproduce, "run", run)
    monkeypatch.setenv("COLUMNS", "120")
    shown = call("gsm8k", "--model", "embedded", "--out", str(tmp_path))
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.stdout.split())
    assert "gsm8k gsm8k/accuracy 25.0% 50.0% +10.0 to +40.0 200 base 22.0%" in words
    assert "fixtures: shows that the recipe runs, not what the paper found" in words
    assert "paper: base 22% (hearsay)" in words
    shown = call("--all", "--model", "embedded", "--limit", "8", "--out", str(tmp_path))
    assert shown.exit_code == 1
    assert "prism failed" in " ".join(shown.stdout.split())
    assert "prism: no room." in shown.stdout
    told = json.loads(call("svamp", "--model", "embedded", "--json").stdout)["results"]
    assert [item["cell"] for item in told] == ["svamp"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of NAME, --all and --list is needed"),
        (["prism", "--all"], "one of NAME, --all and --list is needed"),
        (["prsm/qwen2.5-1.5b"], "did you mean 'prism/qwen2.5-1.5b'?"),
        (["prism"], "prism/llama-3.2-1b"),
        (["prism", "--model", "embedded", "--set", "betta=1"], "did you mean 'beta'?"),
        (["prism", "--model", "embedded", "--limit", "2"], "--limit must be at least 8"),
        (["gsm8k", "--model", "embedded", "--data", "absent"], "gsm8k/train: no such file"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert isinstance(result.exception, MipoError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []
