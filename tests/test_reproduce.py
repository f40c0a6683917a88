"""Every recipe end to end on the embedded model, and what a dry run says beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mipo_mlx import tiny
from mipo_mlx.config import read_toml
from mipo_mlx.errors import ConfigError, DataError, MipoError, ModelError
from mipo_mlx.pipeline import rehearse, reproduce
from mipo_mlx.pipeline.reproduce import Request
from mipo_mlx.recipes import FIXTURES, read_recipes
from mipo_mlx.results import MetricRow
from samples import QUIET
from test_doctor import QWEN_7B, folder_of

QUICK = {"max_steps": 1, "resamples": 100, "max_tokens": 24, "task_max_tokens": 8, **QUIET}
RECIPES = sorted(read_recipes())


def request(folder: Path, **more: Any) -> Request:
    given = {**QUICK, **more.pop("given", {})}
    return Request(model="embedded", limit=8, out=folder, given=given, **more)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    """Recipe -> cell, what its dry run said, result; all recipes run once."""
    cells = reproduce.all_cells(request(tmp_path_factory.mktemp("runs")))
    told = [rehearse.dry_run(cell) for cell in cells]
    assert not any(cell.run.exists() for cell in cells)
    results = [result.to_json() for result in reproduce.run_all(cells)]
    return {
        cell.name: (cell, before, result)
        for cell, before, result in zip(cells, told, results, strict=True)
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_from_start_to_end(name: str, made: Any) -> None:
    cell, _, result = made[name]
    assert "error" not in result, result
    assert list(result["metrics"]) == [
        metric for metric in cell.recipe.measures if not metric.startswith("judge/")
    ]
    for row in result["metrics"].values():
        assert row["n"] > 0
        assert row["ci95"][0] <= row["delta"] <= row["ci95"][1]
    assert reproduce.INVENTED in result["notes"]
    assert result["reported"] == []  # invented rows have nothing to do with the paper's figures
    for file in ("pairs.jsonl", "adapter/adapters.safetensors", "eval.json", "report.html"):
        assert (cell.run / file).is_file()
    assert json.loads((cell.run / reproduce.RESULT).read_text(encoding="utf-8")) == result
    report = json.loads((cell.run / "report.json").read_text(encoding="utf-8"))
    assert any("invented rows" in limit for limit in report["limits"])
    kept = report["metrics"]
    for metric, row in result["metrics"].items():
        assert row == {key: kept[metric][key] for key in row}


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_counts_what_the_run_then_makes(name: str, made: Any) -> None:
    cell, told, _ = made[name]
    steps = json.loads((cell.run / "manifest.json").read_text(encoding="utf-8"))["steps"]
    stats = steps["generate"]["stats"]
    cost = told["cost"]
    assert told["counted_from"] == "the data"
    assert cost["pairs"] == stats["pairs"] + sum(stats["dropped"].values())
    assert cost["answers"] == stats["responses"]
    assert cost["held_out_answers"] == 2 * len(rows(cell.run / "answers.jsonl"))
    results = json.loads((cell.run / "eval.json").read_text(encoding="utf-8"))
    tasks = results["sections"].get("tasks", {"details": {}})["details"]
    assert cost["task_answers"] == 2 * sum(len(task["ids"]) for task in tasks.values())
    assert (name in tasks) == (cell.recipe.objective == "prompt")
    assert cost["response_tokens_at_most"] == (
        24 * (cost["answers"] + cost["held_out_answers"]) + 8 * cost["task_answers"]
    )
    assert told["downloads"] == []
    assert told["training"]["pairs"] == cost["pairs"]
    assert told["training"]["fits"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_keeps_to_the_limit_and_holds_half_of_it_out(name: str, made: Any) -> None:
    cell, _, _ = made[name]
    pairs = rows(cell.run / "pairs.jsonl")
    answers = rows(cell.run / "answers.jsonl")
    if cell.recipe.objective == "context":
        trained, held = ({row["context_id"] for row in side} for side in (pairs, answers))
    else:
        trained, held = ({row["prompt_id"] for row in side} for side in (pairs, answers))
    assert len(held) == 4
    assert 1 <= len(trained) <= 4
    assert not trained & held


def test_the_embedded_preset_is_on_top_of_the_recipe_but_for_the_filter(made: Any) -> None:
    cell, told, _ = made["prism"]
    saved = read_toml(cell.run / "config.toml")
    assert (saved["beta"], saved["learning_rate"], saved["epochs"]) == (1.0, 2e-5, 1)
    assert (saved["min_pmi"], saved["negatives"], saved["temperature"]) == (-1000.0, "missing", 0.1)
    origin = {name: option["origin"] for name, option in told["options"].items()}
    assert origin["beta"] == "preset of the embedded model"
    assert origin["negatives"].startswith("stated: ")
    assert origin["candidates"].startswith("chosen: ")
    assert (origin["user_limit"], origin["max_tokens"]) == ("--limit", "given")
    values = {name: option["value"] for name, option in told["options"].items()}
    assert {name: saved[name] for name in values} == values
    assert any("preset" in note for note in told["notes"])
    assert any("--limit 8" in note for note in told["notes"])


def test_a_finished_run_is_not_made_again(made: Any) -> None:
    cell, _, result = made["svamp"]
    kept = {name: (cell.run / name).stat().st_mtime_ns for name in ("pairs.jsonl", "eval.json")}
    again = reproduce.run(reproduce.cell("svamp", request(cell.run.parent)))
    assert again.to_json()["metrics"] == result["metrics"]
    for name, time in kept.items():
        assert (cell.run / name).stat().st_mtime_ns == time


def test_files_come_from_the_hub_in_the_form_that_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(**where: Any) -> str:
        if where.get("local_files_only"):
            raise FileNotFoundError
        asked.append((where["repo_id"], where["filename"]))
        split = Path(where["filename"]).name.split("-")[0]
        path = tmp_path / Path(where["filename"]).name
        found = rows(FIXTURES / "gsm8k" / f"{split}.jsonl")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    given = {**QUICK, "problem_prompts": "ours", "task_prompts": "ours"}
    wanted = Request(model=str(tiny.MODEL_DIR), limit=8, out=tmp_path / "runs", given=given)
    cell = reproduce.cell("gsm8k/llama-3.2-1b", wanted)
    assert cell.name == "gsm8k" and not cell.invented  # another model stands in
    told = rehearse.dry_run(cell)
    assert asked == []
    assert [item["what"] for item in told["downloads"]] == [f.address for f in cell.recipe.files]
    assert "not on this machine" in told["training"]["not_predicted"]
    result = reproduce.run(cell).to_json()
    names = ("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet")
    assert set(asked) == {("openai/gsm8k", name) for name in names}
    assert result["metrics"]["tasks/gsm8k/accuracy"]["n"] == 8
    report = json.loads((cell.run / "report.json").read_text(encoding="utf-8"))
    assert not any("invented rows" in limit for limit in report["limits"])
    assert [item["text"] for item in result["reported"]] == [
        item.text for item in cell.recipe.reported if not item.models
    ]


def test_the_papers_figure_stands_beside_the_same_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    row = MetricRow(0.25, 0.5, 0.25, (0.1, 0.4), 0.01, 200, "share of answers")
    summary = SimpleNamespace(metrics={"tasks/gsm8k/accuracy": row}, seconds=1.0)
    monkeypatch.setattr(reproduce.pipeline.run, "run", lambda *_: summary)
    monkeypatch.setattr(reproduce.RunStore, "write_json", lambda *_: None)
    for model in ("meta-llama/Llama-3.2-1B-Instruct", "mlx-community/Llama-3.2-1B-Instruct-4bit"):
        result = reproduce.run(reproduce.cell("gsm8k/llama-3.2-1b", Request(model=model))).to_json()
        (beside,) = (item for item in result["reported"] if "metric" in item)
        assert (beside["value"], beside["measured"], beside["side"]) == (0.22, 0.25, "base")
    assert result["notes"] == [f"{model} in place of the paper's model"]
    assert "4bit" in result["run"]


def test_published_counts_stand_in_for_data_that_are_not_here() -> None:
    """By hand: GSM8K 7,473 rows, 3% held out; PRISM 1,500 people, 8,011 conversations; 1,000
    annotators of Community Alignment with 4 prompts each; a fifth of the people held out."""
    hand = {
        "gsm8k/qwen2.5-7b": (7249, 7249, 2 * 224, 400),
        "mmlu/qwen2.5-7b": (1424, 1424, 2 * 107, 1000),
        "prism/qwen2.5-7b": (6409, 2 * 6409, 2 * 64 * 4, 0),
        "community-alignment/qwen2.5-7b": (3200, 6400, 2 * 64 * 4, 0),
        "multifaceted-bench/qwen2.5-7b": (737, 1474, 2 * 64 * 4, 0),
    }
    for name, counts in hand.items():
        told = rehearse.dry_run(reproduce.cell(name, Request()))
        assert told["counted_from"] == "published numbers of rows, about"
        kept = {key: told["cost"][key] for key in told["cost"]}
        del kept["response_tokens_at_most"]
        assert tuple(kept.values()) == counts, name
        model = told["downloads"][-1]
        assert model["what"] == "Qwen/Qwen2.5-7B-Instruct"
        assert model["bytes"] == pytest.approx(7.616e9 * 2, rel=1e-3)


def test_memory_is_predicted_without_weights_where_the_data_are_here(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", QWEN_7B)
    asked: list[dict[str, Any]] = []

    def download(name: str, **how: Any) -> str:
        asked.append(how)
        return str(folder)

    given = {"memory_limit": 64.0}
    wanted = Request(data=str(FIXTURES), out=tmp_path / "runs", given=given)
    told = rehearse.dry_run(reproduce.cell("svamp/qwen2.5-7b", wanted), download=download)
    assert asked and not any("safetensors" in p for how in asked for p in how["allow_patterns"])
    assert told["training"]["weights_bytes"] == pytest.approx(7.616e9 * 2, rel=1e-3)
    assert told["training"]["pairs"] == told["cost"]["pairs"] == 14  # 16 rows, a tenth held out
    assert told["training"]["fits"]
    assert not (tmp_path / "runs").exists()

    def refuse(name: str, **how: Any) -> str:
        raise ConnectionError

    told = rehearse.dry_run(reproduce.cell("svamp/qwen2.5-7b", wanted), download=refuse)
    assert "could not be downloaded" in told["training"]["not_predicted"]


def test_a_limit_only_ever_lowers_those_of_the_recipe() -> None:
    for limit, problems, held in ((20, 20, 4 / 20), (1000, 200, 0.03)):
        config = reproduce.cell("gsm8k/qwen2.5-3b", Request(limit=limit)).config
        assert (config.eval.task_limit, config.data.prompt_limit) == (problems, limit)
        assert config.data.held_out_prompts == held
    config = reproduce.cell("community-alignment/qwen2.5-3b", Request(limit=5000)).config
    assert (config.data.user_limit, config.eval.eval_contexts) == (1000, 64)


def test_what_cannot_be_run_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "prism").mkdir()
    (tmp_path / "prism" / "survey.parquet").write_text("")
    for name, wanted, message in (
        ("prism", Request(), "the model is missing"),
        ("prism", Request(model="embedded", limit=7), "--limit must be at least 8, not 7"),
        ("prism", Request(model="embedded", given={"tasks": "x"}), "--set tasks"),
        ("prism", Request(model="embedded", given={"beta": -1.0}), "beta must be in"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            reproduce.cell(name, wanted)
        assert caught.value.hint
    with pytest.raises(DataError, match=r"prism/conversations: no such file") as missing:
        reproduce.cell("prism", Request(model="embedded", data=str(tmp_path)))
    assert "survey" not in missing.value.message
    with pytest.raises(ModelError, match="not a model folder"):
        absent = Request(model="./no/such/model")
        rehearse.dry_run(reproduce.cell("prism", absent))


def test_one_recipe_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []

    def run(folder: Path, config: Any, on_progress: Any) -> SimpleNamespace:
        on_progress("train", 1, 1)
        if "prism" in folder.name:
            raise MipoError("no room.", "make some")
        return SimpleNamespace(metrics={}, seconds=0.0)

    monkeypatch.setattr(reproduce.pipeline.run, "run", run)
    results = reproduce.run_all(
        reproduce.all_cells(request(tmp_path)), lambda stage, *_: stages.append(stage)
    )
    assert [result.cell for result in results] == RECIPES
    assert [result.cell for result in results if result.error] == ["prism"]
    assert stages == [f"{name}: train" for name in RECIPES]
    assert len(reproduce.all_cells(Request(out=tmp_path))) == 40
