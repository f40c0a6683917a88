"""Controls beside the adapter: without training, trained, and several runs in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mipo_cli.app import app
from mipo_mlx import pipeline, tiny
from mipo_mlx.config import EMBEDDED_MISSING, resolve, to_toml
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.evaluation.context_aware_decoding import cad_weights
from mipo_mlx.pipeline.compare import beside, kind
from mipo_mlx.pipeline.controls import VARIANTS, control, variant
from mipo_mlx.types import silent
from samples import QUIET

OWN = "personalization/own_context_rate"


def small(folder: Path, **more: Any) -> dict[str, Any]:
    """Options of a run of a second or two."""
    flags: dict[str, Any] = {"max_steps": 1, "eval_contexts": 4, "resamples": 100, "candidates": 2}
    flags |= {**QUIET, "prompts_per_context": 2, "eval_prompts_per_context": 2, "min_pmi": -1000.0}
    folder.mkdir(exist_ok=True)
    for name in ("contexts", "prompts"):
        rows = (tiny.SAMPLES_DIR / f"{name}_train.jsonl").read_text().splitlines()[:16]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
        flags[name] = str(folder / f"{name}.jsonl")
    return {**flags, **more}


@pytest.mark.parametrize("text", ["0", "-1", "x", "1,1", "nan", "inf", "1e9"])
def test_weights_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--cad: "):
        cad_weights(text)


def test_weights_are_kept_in_order_and_none_is_none() -> None:
    assert cad_weights(" 2, 0.5 ,1") == [2.0, 0.5, 1.0]
    assert cad_weights(" , ") == []


def test_a_vanishing_weight_is_prompting_and_a_large_one_is_not(tmp_path: Path) -> None:
    config = resolve(flags=small(tmp_path / "data", cad="0.000001,3"))
    results = pipeline.run.run(tmp_path / "run", config).to_json()
    section = results["sections"]["controls"]
    base, faint, strong, adapter = section["tables"][0]["body"]
    assert faint[1:] == base[1:] != strong[1:]
    assert strong[0] == "base, context-aware decoding, a = 3"
    kept = json.loads((tmp_path / "run" / "eval.json").read_text())
    items = kept["sections"]["controls"]["details"][strong[0]]["items"]
    rate = float(np.mean(items[OWN]))
    assert strong[1] == f"{100 * rate:.1f}%"
    difference = kept["sections"]["controls"]["details"][strong[0]]["differences"][OWN]
    tuned = np.mean(kept["items"][OWN]["adapter"])
    assert difference["delta"] == pytest.approx(tuned - rate)
    assert adapter[1] == f"{100 * tuned:.1f}%"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "context-aware decoding, a = 3" in page


def judged(
    path: Path, rates: list[float], *, model: str = "m", users: int = 8, **flags: Any
) -> Path:
    """A run with given own-context values of its adapter, as ``mipo eval`` leaves it."""
    path.mkdir()
    n = len(rates)
    values = {"base": [0.0, 1.0] * (n // 2), "adapter": rates}
    results = {"sections": {}, "metrics": {}, "items": {OWN: values}}
    (path / "eval.json").write_text(json.dumps(results))
    rows = [
        {"context_id": f"c{i}", "prompt_id": "p", "user": f"u{i % users}", "base": f"b{i}"}
        for i in range(n)
    ]
    (path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "config.toml").write_text(to_toml(resolve(flags=flags)))
    step = {"inputs": {"model": model}, "outputs": {}, "stats": {}}
    (path / "manifest.json").write_text(json.dumps({"steps": {"eval": step}}))
    return path


def test_runs_stand_in_one_table_with_paired_differences(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(64) < 0.3).astype(float)
    two = np.maximum(one, (rng.random(64) < 0.6).astype(float))
    runs = [
        judged(tmp_path / "a", one.tolist()),
        judged(tmp_path / "b", two.tolist(), negatives="mixed", num_negatives=2, loss="mipo"),
        judged(tmp_path / "c", one.tolist(), loss="sft"),
    ]
    found = beside(runs, resamples=500).to_json()
    names = ["MIPO, random (a)", "MIPO, mixed, K = 2 (b)", "SFT on chosen (c)"]
    assert [line[0] for line in found["table"]["body"]] == [
        "base, prompted with the context", *names
    ]  # fmt: skip
    assert found["contestants"]["base, prompted with the context"][OWN] == 0.5
    assert found["table"]["body"][1][1] == f"{100 * one.mean():.1f}%"
    more, same = (item["metrics"][OWN] for item in found["differences"])
    assert more["delta"] == pytest.approx(two.mean() - one.mean())
    assert more["users"] == 8
    assert more["ci95"][0] > 0
    assert more["p_holm"] == pytest.approx(min(1.0, 2 * more["p"]))
    assert same["delta"] == 0
    assert "is above MIPO, random (a)" in found["lines"][0]
    assert "no difference seen" in found["lines"][1]


def test_differences_are_told_only_of_the_same_questions_to_the_same_model(tmp_path: Path) -> None:
    a = judged(tmp_path / "a", [0.0, 1.0, 1.0, 1.0])
    longer = judged(tmp_path / "b", [1.0] * 6)
    other = judged(tmp_path / "c", [1.0] * 4, model="another")
    found = beside([a, longer, other], resamples=100).to_json()
    assert found["differences"] == []
    assert all("not asked the same" in line for line in found["lines"])
    assert len(found["table"]["body"]) == 6  # a base each


def test_what_is_no_evaluated_run_is_refused(tmp_path: Path) -> None:
    a = judged(tmp_path / "a", [0.0, 1.0])
    with pytest.raises(ConfigError, match="two different runs"):
        beside([a])
    with pytest.raises(ConfigError, match="two different runs"):
        beside([a, a])
    with pytest.raises(ConfigError, match=r"eval\.json: no such file"):
        beside([a, tmp_path / "absent"])
    (a / "eval.json").write_text('{"items": 3}')
    with pytest.raises(MipoError, match="not what this version"):
        beside([a, judged(tmp_path / "b", [0.0, 1.0])])
    result = CliRunner().invoke(app, ["compare", str(a), "--json", "--markdown"])
    assert result.exit_code == 2


def test_a_control_differs_in_one_thing() -> None:
    run = resolve(flags={"learning_rate": 7e-4, "epochs": 3, "tasks": "a=b", "cad": "2"})
    for name, changes in VARIANTS.items():
        options = variant(run, name)
        assert options.data == run.data
        for option, value in changes.items():
            assert value in (getattr(options.train, option, None),
                             getattr(options.generate, option, None))  # fmt: skip
        assert (options.eval.tasks, options.eval.cad) == ("", "")
        rate = EMBEDDED_MISSING["learning_rate"] if name == "missing" else 7e-4
        assert options.train.learning_rate == rate
    assert kind(variant(run, "k4")) == "MIPO, random, K = 4"
    assert kind(variant(run, "random")) == kind(run)
    with pytest.raises(ConfigError, match="'rlhf' is not a control"):
        variant(run, "rlhf")


def test_controls_are_trained_beside_the_run_and_told_in_its_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = resolve(flags=small(tmp_path / "data", cad=""))
    with pytest.raises(ConfigError, match="no adapter"):
        control(run, config, ["sft"], silent)
    pipeline.run.run(run, config)
    assert "trained_controls" not in pipeline.report.report(run, config).sections
    found = control(run, config, ["sft", "random", "mixed"], silent)
    assert sorted(path.name for path in (run / "controls").iterdir()) == ["mixed", "sft"]
    sft, mixed = run / "controls" / "sft", run / "controls" / "mixed"
    assert (sft / "pairs.jsonl").read_bytes() == (run / "pairs.jsonl").read_bytes()
    assert (mixed / "pairs.jsonl").read_bytes() != (run / "pairs.jsonl").read_bytes()
    weights = {(f / "adapter" / "adapters.safetensors").read_bytes() for f in (run, sft, mixed)}
    assert len(weights) == 3
    assert [item.run for item in found.differences] == [
        "SFT on chosen (sft)",
        "MIPO, mixed (mixed)",
    ]
    summary = pipeline.report.report(run, config)
    assert summary.sections["trained_controls"].tables == [found.table]
    assert "SFT on chosen (sft)" in (run / "report.html").read_text()
    before = (sft / "adapter" / "adapters.safetensors").stat().st_mtime_ns
    assert control(run, config, ["sft", "mixed"], silent) == found
    assert (sft / "adapter" / "adapters.safetensors").stat().st_mtime_ns == before
    given = resolve(flags={**small(tmp_path / "data"), "pairs": str(run / "pairs.jsonl")})
    with pytest.raises(ConfigError, match="pairs of their own"):
        control(run, given, ["sft"], silent)


def test_controls_of_another_evaluation_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = resolve(flags=small(tmp_path / "data", cad=""))
    pipeline.run.run(run, config)
    control(run, config, ["sft"], silent)
    pipeline.evaluate.evaluate(run, resolve(flags=small(tmp_path / "data", cad="", resamples=200)))
    assert "trained_controls" not in pipeline.report.report(run, config).sections
    (run / "controls.json").write_text("[]")
    with pytest.raises(MipoError, match="not what 'mipo controls' wrote"):
        pipeline.report.report(run, config)
