"""What became of rows, a sentence or a table each; for the main table and for studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mipo_mlx.reporting.format import change, interval, moved, number, p_value, where
from mipo_mlx.results import METRICS, MetricRow, Table


def listed(titles: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))


def outcome(row: MetricRow) -> str:
    """From where to where a figure that changed rose or fell."""
    return f"{change(row)}, {moved(row)} ({where(row)}, n = {row.count} {row.resampled})"


def changes(asked: str, words: str, rows: Sequence[MetricRow]) -> list[str]:
    """A sentence for each row that changed, and one for all others.

    Args:
        asked: what the items are; the sentences begin with it.
        words: that titles of the rows end in.
        rows: titled.
    """
    start = asked[0].upper() + asked[1:]
    lines = []
    same: dict[str, list[str]] = {}
    for row in rows:
        title = (row.title or "").removesuffix(f", {words}")
        if change(row) == "none seen":
            same.setdefault(f"{row.count} {row.resampled}", []).append(title)
        else:
            lines.append(f"{start}: {title} {outcome(row)}.")
    for count, titles in same.items():
        lines.append(f"{start}: no difference seen in {listed(titles)}, at n = {count}.")
    return lines


def _unseen(row: MetricRow) -> str:
    """How many were asked in vain, and how many would be enough."""
    seen = f"no difference seen at n = {row.count} {row.resampled}"
    if row.needed is None:
        return seen
    return f"{seen}; n = {max(row.needed, row.count + 1)} would show one of this size"


def verdict(metrics: Mapping[str, MetricRow]) -> str:
    """A line a headline metric: a gain or a fall, or how many would show a difference of its size.

    The headline metrics are those with ``p_holm``. They are one family: without any effect, no more
    than 5% of verdicts name a gain or a fall at all.
    """
    lines = []
    for name, row in metrics.items():
        if row.p_holm is None:
            continue
        found = change(row)
        if found == "none seen":
            lines.append(f"{name}: {_unseen(row)} ({moved(row)}, {where(row)}).")
        else:
            word = "gain" if found == "rose" else "fall"
            tested = f"Holm p {p_value(row.p_holm)}, n = {row.count} {row.resampled}"
            lines.append(f"{name}: {word}, {moved(row)} ({where(row)}, {tested}).")
    return "\n".join(lines) or "Nothing was measured."


def finding(name: str, row: MetricRow, who: str, other: str) -> str:
    """A sentence on one difference between two, ``other`` less ``who`` in the row."""
    title = METRICS[name].title
    size = f"{number(row.base, row.unit)} and {number(row.adapter, row.unit)}"
    seen = where(row) if row.p_holm is None else f"{where(row)}, Holm p {p_value(row.p_holm)}"
    found = change(row)
    if found == "none seen":
        return f"{title}: no difference seen between {who} and {other} ({size}; {seen})."
    word = "above" if found == "rose" else "below"
    return f"{title}: {other} is {word} {who} ({size}; {seen})."


def means_table(means: Mapping[str, Mapping[str, float]]) -> Table:
    """Means of metrics, a row a contestant; empty where it has no values.

    Args:
        means: who gave the answers -> metric -> mean.
    """
    names = list(dict.fromkeys(name for own in means.values() for name in own))
    heads = [
        f"{METRICS[n].title} (nats)" if METRICS[n].unit == "nats" else METRICS[n].title
        for n in names
    ]
    body = [
        [who, *(number(own[n], METRICS[n].unit) if n in own else "" for n in names)]
        for who, own in means.items()
    ]
    return Table("Means over held-out answers", ["answers of", *heads], body)


def not_asked_the_same(run: str, first: str) -> str:
    """Why two runs have no difference."""
    return f"{run} and {first} were not asked the same of the same model: no difference is told."


def beyond(row: MetricRow) -> str:
    """A difference with its interval."""
    return f"95% interval {interval(row.ci95, row.unit)}"
