"""Step 4: results -> a plain summary that the command line, JSON and Markdown show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: what rose or fell with an interval clear of zero, and what cannot be told."""
    headline = [
        name
        for name in (
            "personalization/own_context_rate",
            "information/context_accuracy",
            "information/pmi",
            "reasoning/accuracy",
        )
        if name in metrics
    ]
    if not headline:
        return "Nothing was measured."
    name = headline[0]
    row = metrics[name]
    low, high = row["ci95"]
    size = f"{row['base']:.3g} -> {row['adapter']:.3g} {row['unit']}"
    where = f"95% interval of the difference {low:+.3g} to {high:+.3g}, n = {row['n']}"
    if low > 0:
        return f"{name} rose: {size} ({where})."
    if high < 0:
        return f"{name} fell: {size} ({where})."
    return f"No difference seen in {name} at n = {row['n']}: {size} ({where})."


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
        "examples": results["examples"],
        "changed": results["changed"],
        "answers": results["answers"],
        "held_out": results["held_out"],
        "steps": dict(steps),
    }


def markdown(summary: Mapping[str, Any]) -> str:
    """The report's table and verdict as Markdown."""
    lines = [summary["verdict"], "", "| metric | base | adapter | delta [95%] | n | unit |"]
    lines.append("|---|---|---|---|---|---|")
    for name, row in summary["metrics"].items():
        low, high = row["ci95"]
        lines.append(
            f"| {name} | {row['base']:.4g} | {row['adapter']:.4g} "
            f"| {row['delta']:+.4g} [{low:+.4g}, {high:+.4g}] | {row['n']} | {row['unit']} |"
        )
    return "\n".join(lines) + "\n"
