"""Numbers, units, intervals, and when a difference is called a change: one rule each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from mipo_mlx.results import ALPHA, MetricRow

Change = Literal["rose", "fell", "none seen"]
SHARE = "share"  # a unit, or the start of one


def change(row: MetricRow) -> Change:
    """Rose or fell where the interval clears 0 and Holm's correction, if any, keeps it; or none."""
    low, high = row.ci95
    p = row.p if row.p_holm is None else row.p_holm
    if not (low > 0 or high < 0) or p > ALPHA:  # so that nan is no change
        return "none seen"
    return "rose" if low > 0 else "fell"


def is_share(unit: str) -> bool:
    """Whether values of a unit are shown in percent."""
    return unit.startswith(SHARE)


def number(value: float, unit: str = "") -> str:
    """A value: shares in percent with one decimal, the rest with three digits; a dash for nan."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if is_share(unit):
        return f"{100 * value:z.1f}%"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.3g}"


def signed(value: float, unit: str = "") -> str:
    """A difference, of shares in percentage points, which are not written out."""
    text = number(value, unit).removesuffix("%")
    return f"+{text}" if value > 0 and text.strip("0.") else text


def difference(value: float, unit: str = "") -> str:
    """A difference with its points, if it has any."""
    return signed(value, unit) + (" points" if is_share(unit) else "")


def interval(ends: Sequence[float], unit: str = "") -> str:
    """An interval of a difference: ``-0.5 to +3.1 points``."""
    low, high = ends
    return f"{signed(low, unit)} to {difference(high, unit)}"


def range_of(ends: Sequence[float], unit: str = "") -> str:
    """An interval of a value: ``18.0 to 53.2%``."""
    low, high = (number(end, unit) for end in ends)
    return f"{low.removesuffix('%')} to {high}"


def p_value(p: float) -> str:
    """A p with two digits."""
    return f"{p:.2g}"


def unit_of_difference(unit: str) -> str:
    """What differences are shown in."""
    return "percentage points" if is_share(unit) else unit


def scale(unit: str) -> float:
    """What a value is multiplied by to be drawn: 100 for shares."""
    return 100.0 if is_share(unit) else 1.0


def moved(row: MetricRow) -> str:
    """From where to where: ``57.8% -> 94.5% of answers``."""
    base, adapter = (number(value, row.unit) for value in (row.base, row.adapter))
    return f"{base} -> {adapter} {row.unit.removeprefix('share ')}"


def where(row: MetricRow) -> str:
    """Where the difference lies."""
    return f"95% interval of the difference {interval(row.ci95, row.unit)}"


def typographic(text: str) -> str:
    """With true minus signs, for pages and plots."""
    return text.replace("-", "\N{MINUS SIGN}")
