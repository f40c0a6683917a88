"""The result of ``mipo bench`` as a block of Markdown to be pasted, and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mipo_mlx.bench.results import BenchResult, Machine, SamplingRow, StepRow, Timing
from mipo_mlx.bench.work import SAMPLING, WORKS

NAMES = ("mipo-mlx", "mlx", "mlx-lm", "python")


def _gib(size: float) -> str:
    """Bytes in GiB, with three figures below 10."""
    return f"{size / 2**30:.3g}" if size < 10 * 2**30 else f"{size / 2**30:.1f}"


def _rate(flops: float) -> str:
    """FLOP/s in words."""
    return f"{flops / 1e12:.2f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.0f} GFLOP/s"


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _head(machine: Machine, rates: dict[str, float]) -> list[str]:
    versions = ", ".join(f"{name} {machine.versions.get(name, '?')}" for name in NAMES)
    load = "" if machine.load is None else f"; load {machine.load:g} on {machine.cores} cores"
    measured = ", ".join(f"{name} {_rate(rate)}" for name, rate in rates.items())
    return [
        f"### mipo bench: {machine.chip}, {machine.memory / 2**30:.0f} GiB ({machine.backend})",
        "",
        f"{machine.system}; {versions}; memory limit {_gib(machine.limit)} GiB{load}.",
        f"One large matrix product: {measured or 'not measured'}.",
        "",
    ]


def _sampling(rows: list[SamplingRow]) -> list[str]:
    if not rows:
        return []
    body = [
        [
            row.model,
            row.precision,
            f"{row.tokens_per_second:.0f}",
            f"{row.forwarded} of {row.prompt_tokens}",
            _gib(row.timing.peak),
            str(len(row.timing.seconds)),
        ]
        for row in rows
    ]
    head = ["model", "precision", "tokens/s", "prompt tokens forwarded", "peak GiB", "n"]
    return [f"Sampling: {SAMPLING}.", "", *_table(head, body), ""]


def ratios(row: StepRow) -> dict[str, float]:
    """The plain step over ours, by median seconds and by peak bytes; none where it was skipped."""
    if row.plain is None:
        return {}
    return {
        "speedup": row.plain.median / row.ours.median,
        "memory_ratio": row.plain.peak / row.ours.peak,
    }


def _cells(row: StepRow) -> list[str]:
    over = ratios(row)
    plain = row.plain

    def of_plain(text: str) -> str:
        return text if plain else "-"

    def predicted(timing: Timing) -> str:
        return f"{_gib(timing.peak)} ({_gib(timing.predicted)})"

    return [
        row.model,
        row.precision,
        row.work,
        _seconds(row.ours.median),
        _seconds(plain.median) if plain else "-",
        of_plain(f"{over.get('speedup', 0.0):.1f}"),
        predicted(row.ours),
        predicted(plain) if plain else "-",
        of_plain(f"{over.get('memory_ratio', 0.0):.1f}"),
        f"{100 * row.share(row.ours):.1f}%",
        f"{100 * row.share(plain):.1f}%" if plain else "-",
        "-" if row.distance is None else f"{row.distance:.1g}",
        f"{len(row.ours.seconds)}, {len(plain.seconds) if plain else 0}",
    ]


def _steps(rows: list[StepRow]) -> list[str]:
    if not rows:
        return []
    head = [
        *("model", "precision", "batch", "s", "plain s", "times faster"),
        *("peak GiB (predicted)", "plain GiB (predicted)", "times less"),
        *("of matmul rate", "plain", "gradients differ", "n"),
    ]
    seen = {row.work for row in rows}
    shapes = "; ".join(f"{name}: {work}" for name, work in WORKS.items() if name in seen)
    return [
        "Gradient of one training step, LoRA of rank 8 on all linear layers, against the plain "
        "step: both full rows of each pair through the model's own forward pass. Medians of "
        "interleaved rounds, ratios of medians; peaks include weights; the share of the matmul "
        f"rate counts every token once, attention scores aside. {shapes}.",
        "",
        *_table(head, [_cells(row) for row in rows]),
        "",
    ]


def markdown(result: BenchResult) -> str:
    """The block."""
    lines = [
        *_head(result.machine, result.rates),
        *_sampling(result.sampling),
        *_steps(result.steps),
    ]
    lines += [
        f"- skipped: {item.model} {item.precision}, {item.what}: {item.why}"
        for item in result.skipped
    ]
    return "\n".join(lines).rstrip() + "\n"


def plain_data(result: BenchResult) -> dict[str, Any]:
    """All numbers of a result for JSON, those that follow from others included."""
    data = asdict(result)
    for row, told in zip(result.sampling, data["sampling"], strict=True):
        told["tokens_per_second"] = row.tokens_per_second
    for step, told in zip(result.steps, data["steps"], strict=True):
        told |= ratios(step)
        told["share_of_matmul_rate"] = step.share(step.ours)
    return data
