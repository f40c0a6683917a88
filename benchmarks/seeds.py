"""The whole loop over seeds, objectives and negatives: a Markdown table of before and after.

``python benchmarks/seeds.py --seeds 0 1 2 --kinds random missing prompt --set epochs=1``

A kind is a kind of negatives of the context objective, ``prompt`` for the prompt objective, or a
control: ``sft`` on the chosen answers of random negatives, ``k4`` with four rejected answers each.
Every run is made from scratch in a temporary folder; a cell reads "base -> adapter (interval)".
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx

from mipo_mlx import pipeline
from mipo_mlx.config import parse_set, resolve
from mipo_mlx.pipeline.controls import VARIANTS
from mipo_mlx.reporting.format import interval, number
from mipo_mlx.reporting.summary import Report
from mipo_mlx.results import MetricRow

METRICS = {
    "context": {
        "own": "personalization/own_context_rate",
        "wrong": "personalization/wrong_fact_rate",
        "PMI": "information/pmi",
        "accuracy of M": "information/context_accuracy",
        "swapped gap": "control/swapped_context_gap",
        "self-BLEU": "diversity/self_bleu4",
        "tokens": "length/response_tokens",
    },
    "prompt": {
        "accuracy": "reasoning/accuracy",
        "form": "reasoning/form_rate",
        "choice entropy": "reasoning/choice_entropy",
        "PMI": "information/pmi",
        "self-BLEU": "diversity/self_bleu4",
        "tokens": "length/response_tokens",
    },
}


def one(kind: str, seed: int, extra: dict[str, Any]) -> Report:
    """The report of one run."""
    flags: dict[str, Any] = {"seed": seed, **extra}
    changes = VARIANTS.get(kind, {"negatives": kind})
    flags.update({"objective": "prompt"} if kind == "prompt" else changes)
    with tempfile.TemporaryDirectory() as folder:
        return pipeline.run.run(Path(folder) / "run", resolve(flags=flags))


def cell(row: MetricRow) -> str:
    """``base -> adapter (interval of the difference)``; shares in percent."""
    base, adapter = (number(value, row.unit) for value in (row.base, row.adapter))
    return f"{base} -> {adapter} ({interval(row.ci95, row.unit)})"


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=["random", "missing", "prompt"])
    parser.add_argument("--set", dest="options", action="append", default=[])
    args = parser.parse_args()
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    extra = dict(parse_set(option) for option in args.options)
    for objective, metrics in METRICS.items():
        kinds = [kind for kind in args.kinds if (kind == "prompt") == (objective == "prompt")]
        if not kinds:
            continue
        print(f"\n| {objective} | seed | {' | '.join(metrics)} | length ratio | n | s |")
        print("|" + " --- |" * (len(metrics) + 5), flush=True)
        for kind in kinds:
            for seed in args.seeds:
                report = one(kind, seed, extra)
                found = report.metrics
                cells = [cell(found[name]) for name in metrics.values()]
                count = found["information/pmi"].n
                tail = f"{report.length_ratio:.2f} | {count} | {report.seconds:.0f}"
                print(f"| {kind} | {seed} | {' | '.join(cells)} | {tail} |", flush=True)


if __name__ == "__main__":
    main()
