"""Sections of controls, retention, diversity and benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mipo_mlx.reporting.format import (
    SHARE,
    change,
    is_share,
    number,
    range_of,
    signed,
)
from mipo_mlx.reporting.narrative.changes import beyond, changes, finding, means_table, outcome
from mipo_mlx.results import SIDES, MetricRow, Section, Table
from mipo_mlx.results.findings import (
    BenchmarkFindings,
    ControlFindings,
    Distance,
    Distraction,
    DiversityFindings,
    RetentionFindings,
)

Rows = Mapping[str, MetricRow]


def controls(found: ControlFindings) -> Section:
    """What is had without training, beside the adapter."""
    lines = []
    for who, rows in found.differences.items():
        first = next(iter(rows))
        lines.append(finding(first, rows[first], who, "the adapter"))
    return Section(
        title="Controls",
        about="The same users and prompts, answered by the base as it is and by the base with "
        "context-aware decoding, which needs no training but two forward passes a token. "
        "Their answers are scored by the base, the adapter's by the adapter.",
        lines=lines,
        tables=[means_table(found.means)],
    )


def trained_controls(lines: Sequence[str], table: Table) -> Section:
    """What ``mipo controls`` found."""
    return Section(
        title="Trained controls",
        about="The same users, prompts and settings, but for one thing each. Intervals are "
        "of paired differences to this run, users resampled whole, tests Holm-corrected.",
        lines=lines,
        tables=[table],
    )


KL = ("kl", "kl_k1", "kl_per_token")


def _of(name: str, rows: Rows) -> dict[str, MetricRow]:
    """Rows of a part of retention, by figure."""
    prefix = f"retention/{name}/"
    return {key.removeprefix(prefix): row for key, row in rows.items() if key.startswith(prefix)}


def _distance_lines(part: Distance, rows: Rows) -> list[str]:
    """How many answers are the same, and how far the adapter is from the base."""
    kl, plain, token = (rows[name] for name in KL)
    spans = [f"{number(row.adapter)} ({range_of(row.ci95)})" for row in (kl, plain)]
    return [
        f"Of {part.n} answers {part.words}, {part.unchanged} are word for word the base's "
        f"({range_of(part.unchanged_ci95, SHARE)} by a 95% interval).",
        f"KL to the base of answers {part.words}: {spans[0]} nats by k3, {spans[1]} "
        f"by the plain estimate (95% intervals); {number(token.adapter)} a token.",
    ]


def _distraction_lines(kind: Distraction, rows: Rows) -> list[str]:
    """What changed, and how many requests were left out."""
    if not kind.asked:
        return {
            "distracted": ["No context has room for a paragraph in the model's window."],
            "unrelated": ["No unrelated request fits the model's window beside a context."],
        }.get(kind.name, [])
    lines = changes(kind.words, kind.words, list(rows.values()))
    if kind.left_out:
        share = f"{kind.left_out} of {kind.asked + kind.left_out}"
        lines += {
            "distracted": [
                f"{share} contexts had no room for a paragraph in the model's window and were "
                "left out."
            ],
            "unrelated": [
                f"{share} unrelated requests did not fit the model's window beside a context and "
                "were left out."
            ],
        }.get(kind.name, [])
    return lines


def _distance_table(found: RetentionFindings, metrics: Rows) -> Table:
    body = []
    for part in found.parts:
        rows = _of(part.name, metrics)
        perplexity = rows["log_perplexity"]
        body.append(
            [
                *(part.words, str(part.n), str(part.unchanged)),
                *(number(math.exp(value)) for value in (perplexity.base, perplexity.adapter)),
                *(number(rows[name].adapter) for name in KL),
            ]
        )
    return Table(
        "Distance from the base. Perplexity is the base's, a geometric mean over answers, whoever "
        "wrote them; KL in nats.",
        [
            *("answers", "n", "unchanged", "perplexity, base's", "perplexity, adapter's"),
            *("KL an answer (k3)", "KL an answer (plain)", "KL a token"),
        ],
        body,
    )


def _rates_table(kind: Distraction) -> Table:
    return Table(
        f"{kind.asked} answers without and with an irrelevant paragraph beside the context.",
        ["metric", "base", "base, with paragraph", "adapter", "adapter, with paragraph"],
        [
            [name, *(number(value, SHARE) for value in values)]
            for name, values in kind.rates.items()
        ],
    )


def _notes(found: RetentionFindings) -> list[str]:
    """What the numbers do not say."""
    notes = []
    if found.temperature != 1 or found.top_p != 1:
        notes.append(
            f"Answers were sampled at temperature {found.temperature:g} and top-p "
            f"{found.top_p:g}; both KL estimates are exact in the mean at 1 and 1 only."
        )
    if found.facts_missing:
        notes.append("The contexts name no facts, so facts stated unasked were not counted.")
    return notes


def retention(found: RetentionFindings, metrics: Rows) -> Section:
    """Whether anything but the use of context changed."""
    lines: list[str] = []
    for part in found.parts:
        rows = _of(part.name, metrics)
        rest = [row for name, row in rows.items() if name not in KL]
        lines += [*_distance_lines(part, rows), *changes(part.words, part.words, rest)]
    tables = [_distance_table(found, metrics)]
    for kind in found.distractions:
        lines += _distraction_lines(kind, _of(kind.name, metrics))
        tables += [_rates_table(kind)] if kind.rates else []
    return Section(
        title="Is anything else worse?",
        about="Whether anything but the use of context changed: answers with and without context, "
        "with irrelevant text added, and to requests that have nothing to do with the user. "
        "Intervals are not corrected for how many figures there are: of twenty without any "
        "effect, one is expected to clear 0.",
        lines=[*lines, *_notes(found)],
        tables=tables,
    )


def diversity(found: DiversityFindings, metrics: Rows) -> Section:
    """How much answers to the very same request differ."""
    words = "to one request"
    lines = changes(f"of {found.samples} answers {words}", words, list(metrics.values()))
    if found.greedy:
        lines = ["Answers are greedy, so all to one request are the same; nothing was measured."]
    return Section(
        title="Diversity",
        about=f"{found.samples} answers of each model to the same request, held against each "
        "other. This is what to read for diversity: self-BLEU across requests, in the main table, "
        "falls by itself as answers grow specific to their users. Short answers are more distinct "
        "word by word.",
        lines=lines,
    )


def _task_rows(name: str, metrics: Rows) -> dict[str, MetricRow]:
    """Rows of a task, by figure in words."""
    prefix = f"tasks/{name}/"
    return {
        key.removeprefix(prefix).replace("_", " "): row
        for key, row in metrics.items()
        if key.startswith(prefix)
    }


def _task_line(name: str, rows: Rows) -> str:
    """What became of a task: its accuracy, then whatever else changed."""
    found = []
    for figure, row in rows.items():
        if change(row) != "none seen":
            found.append(f"{figure} {outcome(row)}")
        elif figure == "accuracy":
            found.append(
                f"no difference seen in {figure} at n = {row.count} {row.resampled} ({beyond(row)})"
            )
    return f"{name}: {'; '.join(found)}."


def _task_cells(row: MetricRow) -> list[str]:
    """Both means, entropies with their sd, the difference and the problems behind it."""
    spreads = [f" (sd {number(sd)})" for sd in row.sd] if row.sd else ["", ""]
    values = [
        number(row.side(side), row.unit) + spread
        for side, spread in zip(SIDES, spreads, strict=True)
    ]
    low, high = (signed(end, row.unit) for end in row.ci95)
    points = " points" if is_share(row.unit) else ""
    counted = dict.fromkeys(row.counted or [row.n])
    return [
        *values,
        f"{signed(row.delta, row.unit)} [{low}, {high}]{points}",
        " and ".join(map(str, counted)),
    ]


def benchmarks(found: BenchmarkFindings, metrics: Rows) -> Section:
    """Problems with known answers."""
    tasks = {name: _task_rows(name, metrics) for name in found.names}
    return Section(
        title="Other tasks",
        about="Problems with known answers, to see whether anything else became worse.",
        lines=[_task_line(name, rows) for name, rows in tasks.items()],
        tables=[
            Table(
                "Answers are greedy; choice entropy is over the labels offered, in nats, its mean "
                "and sd over problems, and right and wrong are by the likeliest label.",
                ["task", *SIDES, "difference, 95% interval", "problems"],
                [
                    [f"{name}: {figure}", *_task_cells(row)]
                    for name, rows in tasks.items()
                    for figure, row in rows.items()
                ],
            )
        ],
    )
