"""Measurements as rows, and how one is told: a change, a number, an interval."""

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


def outcome(row: Mapping[str, Any]) -> str:
    """From where to where a figure that changed rose or fell."""
    count = row["n"] if row["resampled"] in ("answers", "problems") else row["users"]
    unit = row["unit"]
    base, adapter = (told(row[side], unit) for side in ("base", "adapter"))
    return (
        f"{change(row)}, {base} -> {adapter} {unit.removeprefix('share ')} (95% interval of the "
        f"difference {told_ends(row['ci95'], unit)}, n = {count} {row['resampled']})"
    )
