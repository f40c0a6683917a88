"""Every supported architecture goes through generate, train (two steps), eval and report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlx.core as mx
import pytest

from mipo_mlx import pipeline
from mipo_mlx.config import resolve

from . import archs


def rows(path: Path, texts: list[str]) -> str:
    path.write_text(
        "".join(
            json.dumps({"id": f"{path.stem}{n}", "text": t}) + "\n" for n, t in enumerate(texts)
        )
    )
    return str(path)


@pytest.mark.parametrize("name", sorted(archs.ARCHS))
def test_the_loop_on(name: str, tmp_path: Path) -> None:
    from mlx_lm import load

    ends = [2, *range(200, 240)]  # a random model would seldom hit a single one
    model = archs.write(tmp_path / "model", name, ends=ends)
    flags = {
        "model": str(model),
        "contexts": rows(tmp_path / "users.jsonl", [f"Town {n}." for n in range(6)]),
        "prompts": rows(tmp_path / "asks.jsonl", ["Where?", "Plan my day.", "Who am I?"]),
        "max_tokens": 40,
        "max_steps": 2,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup": 0.0,
        "resamples": 100,
        "memorization": False,
        "diversity_samples": 0,
    }
    run = tmp_path / "run"
    summary = pipeline.run.run(run, resolve(flags=flags))
    first, second = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["grad_norm"] > 0
    assert second["loss"] != first["loss"]
    assert math.isfinite(summary.metrics["information/pmi"].adapter)
    tuned = load(str(model), adapter_path=str(run / "adapter"))[0]
    plain = load(str(model))[0]
    tokens = mx.array([[5, 60, 70, 80]])
    change = mx.abs(tuned(tokens) - plain(tokens)).max().item()
    assert 1e-6 < change < math.inf
