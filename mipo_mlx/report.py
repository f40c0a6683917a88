"""Step 4: results -> a plain summary that the command line, JSON and Markdown show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALPHA = 0.05  # of every interval and test of a report


def change(row: Mapping[str, Any]) -> str:
    """Rose or fell where the interval clears 0 and Holm's correction, if any, keeps it; or none."""
    low, high = row["ci95"]
    if low <= 0 <= high or row.get("p_holm", row["p"]) > ALPHA:
        return "none seen"
    return "rose" if low > 0 else "fell"


def told(value: float, unit: str, *, sign: bool = False) -> str:
    """A value as people read it: shares in percent or percentage points, the rest in their unit."""
    plus = "+" if sign else ""
    if unit.startswith("share"):
        return f"{100 * value:{plus}.1f}{' points' if sign else '%'}"
    return f"{value:{plus}.3g}"


def told_ends(ends: Sequence[float], unit: str) -> str:
    """An interval of a difference as people read it."""
    low, high = (told(end, unit, sign=True) for end in ends)
    return f"{low.removesuffix(' points')} to {high}"


def _unseen(row: Mapping[str, Any], count: int) -> str:
    """How many were asked in vain, and how many would be enough."""
    unit = row["resampled"]
    enough = row["needed"]
    if enough is None:
        return f"no difference seen at n = {count} {unit}"
    enough = max(enough, count + 1)
    return f"no difference seen at n = {count} {unit}; n = {enough} would show one of this size"


def outcome(row: Mapping[str, Any]) -> str:
    """From where to where a figure that changed rose or fell."""
    count = row["n"] if row["resampled"] in ("answers", "problems") else row["users"]
    unit = row["unit"]
    base, adapter = (told(row[side], unit) for side in ("base", "adapter"))
    return (
        f"{change(row)}, {base} -> {adapter} {unit.removeprefix('share ')} (95% interval of the "
        f"difference {told_ends(row['ci95'], unit)}, n = {count} {row['resampled']})"
    )


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


def _with_interval(value: float, ends: Sequence[float] | None, sign: str = "") -> str:
    """A value, and where there is one its 95% interval."""
    told = f"{value:{sign}.4g}"
    return told + (f" [{ends[0]:{sign}.4g}, {ends[1]:{sign}.4g}]" if ends else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    rows = [head, *body]
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def _sections(sections: Mapping[str, Any]) -> list[str]:
    """Sections of studies, but for their metrics, which stand in the table of all."""
    lines = []
    for section in sections.values():
        lines += ["", f"## {section['title']}", "", section["about"]]
        lines += ["", *(f"- {line}" for line in section["lines"])] if section["lines"] else []
        for table in section["tables"]:
            lines += ["", f"{table['caption']}", ""]
            lines += markdown_table(table["head"], table["body"])
    return lines


def markdown(summary: Mapping[str, Any]) -> str:
    """The report's table, verdict and sections as Markdown; intervals are of 95%."""
    names = (
        *("metric", "base", "adapter", "delta", "change", "p", "Holm p", "McNemar p"),
        *("answers", "users", "effective n", "unit"),
    )
    lines = ["  \n".join(summary["verdict"].split("\n")), ""]
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, row in summary["metrics"].items():
        tests = [f"{row[key]:.2g}" if key in row else "" for key in ("p", "p_holm", "mcnemar_p")]
        cells = (
            name,
            _with_interval(row["base"], row.get("base_ci95")),
            _with_interval(row["adapter"], row.get("adapter_ci95")),
            _with_interval(row["delta"], row["ci95"], "+"),
            change(row),
            *tests,
            *(str(row["n"]), str(row.get("users", ""))),
            *(f"{row['effective_n']:.0f}" if "effective_n" in row else "", row["unit"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += _sections(summary["sections"])
    return "\n".join(lines) + "\n"
