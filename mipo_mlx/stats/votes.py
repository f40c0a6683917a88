"""What votes say: a rate with its interval, a sign test, agreement. numpy float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from mipo_mlx.stats.intervals import student_quantile, wilson


def effective_size(values: np.ndarray, clusters: Sequence[str], level: float = 0.95) -> float:
    """How many independent votes tell as much about the mean as these do.

    n / deff, at most n; deff = V / (p (1 - p) / (n - 1)) with V the variance of the mean p when
    clusters are drawn whole: ``K / (K - 1) * sum_k (sum_{i in k} (v_i - p))^2 / n^2``. Times
    (z / t)^2, t of K - 1 degrees of freedom, for V is known from K clusters only.
    Source: Korn, Graubard 1998, Survey Methodology 24(2).

    Where all votes are alike, nothing tells how clusters do, and each counts as one vote.

    Args:
        values: shares in [0, 1], one a vote [n].
        clusters: a label a vote; with a single label every vote is its own cluster.
        level: coverage of the interval that this is for.
    """
    n, mean = len(values), float(np.mean(values))
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, float) - mean)
    count = sums.size
    if count in (1, n):
        return float(n)
    variance = count / (count - 1) * float(np.square(sums).sum()) / n**2
    spread = mean * (1 - mean) / (n - 1)
    if spread <= 1e-12:
        return float(count)
    size = min(float(n), n * spread / variance) if variance > 1e-12 else float(n)
    z = NormalDist().inv_cdf((1 + level) / 2)
    return size * (z / student_quantile(level, count - 1)) ** 2


def rate(values: np.ndarray, clusters: Sequence[str]) -> tuple[float, float, float]:
    """Mean of votes with Wilson's 95% interval at their effective size; [0, 1] for no votes.

    Source: Dean, Pagano 2015, Journal of Survey Statistics and Methodology 3(4), doi
    10.1093/jssam/smv024. Half votes vary less than whole ones, so with ties it is too wide.
    """
    if not len(values):
        return math.nan, 0.0, 1.0
    size = effective_size(values, clusters)
    mean = float(np.mean(values))
    low, high = wilson(mean * size, size)
    return mean, max(0.0, low), min(1.0, high)


def sign_test(first: int, second: int) -> float:
    """Two-sided exact p-value of counts that a fair coin would share (Dixon, Mood 1946)."""
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / (1 << n))


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two voters beyond chance (Cohen 1960); nan where chance alone agrees always."""
    n = len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(first.count(name) * second.count(name) for name in set(first)) / n**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan
