"""Results -> a plain summary that the command line, JSON and Markdown show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mipo_mlx.results import change


def _unseen(row: Mapping[str, Any], count: int) -> str:
    """How many were asked in vain, and how many would be enough."""
    unit = row["resampled"]
    enough = row["needed"]
    if enough is None:
        return f"no difference seen at n = {count} {unit}"
    enough = max(enough, count + 1)
    return f"no difference seen at n = {count} {unit}; n = {enough} would show one of this size"


def verdict(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a headline metric: a gain or a fall, or how many would show a difference of its size.

    The headline metrics are those with ``p_holm``. They are one family: without any effect, no more
    than 5% of verdicts name a gain or a fall at all.
    """
    lines = []
    for name, row in metrics.items():
        if "p_holm" not in row:
            continue
        low, high = row["ci95"]
        count = row["n"] if row["resampled"] == "answers" else row["users"]
        size = f"{row['base']:.3g} -> {row['adapter']:.3g} {row['unit']}"
        where = f"95% interval of the difference {low:+.3g} to {high:+.3g}"
        found = change(row)
        if found == "none seen":
            lines.append(f"{name}: {_unseen(row, count)} ({size}, {where}).")
        else:
            word = "gain" if found == "rose" else "fall"
            tested = f"Holm p {row['p_holm']:.2g}, n = {count} {row['resampled']}"
            lines.append(f"{name}: {word}, {size} ({where}, {tested}).")
    return "\n".join(lines) or "Nothing was measured."


def summarise(results: Mapping[str, Any], steps: Mapping[str, Any]) -> dict[str, Any]:
    """The report as one JSON-able object.

    Args:
        results: content of ``eval.json``.
        steps: per step its seconds and peak memory in bytes, from the manifest.
    """
    metrics = results["metrics"]
    lengths = metrics.get("length/response_tokens")
    ratio = lengths["adapter"] / lengths["base"] if lengths and lengths["base"] else None
    return {
        "schema": 1,
        "verdict": verdict(metrics),
        "metrics": metrics,
        "length_ratio": ratio,
        "sections": {
            name: {key: value for key, value in section.items() if key != "details"}
            for name, section in results.get("sections", {}).items()
        },
        "examples": results["examples"],
        "changed": results["changed"],
        "answers": results["answers"],
        "held_out": results["held_out"],
        "overlap": results.get("overlap", {}),
        "steps": dict(steps),
    }


def apart(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that belong to no section: those of the main table."""
    told = {name for section in summary["sections"].values() for name in section["metrics"]}
    return {name: row for name, row in summary["metrics"].items() if name not in told}
