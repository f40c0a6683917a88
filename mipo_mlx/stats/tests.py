"""Exact tests, families of them, and agreement. numpy float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def sign_test(first: int, second: int) -> float:
    """Two-sided exact p of counts that a fair coin would share (Dixon, Mood 1946); 1 of none."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))


def mcnemar(base: np.ndarray, adapter: np.ndarray) -> float:
    """Exact two-sided p that answers turn right as often as wrong (McNemar 1947).

    A sign test over the answers that changed, each taken as independent.

    Args:
        base: 1 where the base is right, else 0 [n].
        adapter: the same of the adapter [n].
    """
    gained = int(np.sum((adapter > 0.5) & (base < 0.5)))
    lost = int(np.sum((adapter < 0.5) & (base > 0.5)))
    return sign_test(gained, lost)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for being a family, step-down (Holm 1979); in the order given."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, float)[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two voters beyond chance (Cohen 1960); nan where chance alone agrees always."""
    n = len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(first.count(name) * second.count(name) for name in set(first)) / n**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan
