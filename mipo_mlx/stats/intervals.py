"""Rates and means of items that come in clusters: their errors and intervals. numpy float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np


def student_p(t: float, freedom: int) -> float:
    """Two-sided p of Student's t."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


@lru_cache(maxsize=256)
def student_quantile(level: float, freedom: int) -> float:
    """The t within which Student's distribution has probability ``level``, both sides."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


@dataclass(frozen=True)
class Spread:
    """A mean over items whose clusters are draws, linearised (Cochran 1977, eq. 6.13).

    Attributes:
        sizes: items of each cluster [m].
        residuals: a cluster's sum less ``mean`` times its size [m].
        error: standard error of the mean; nan for one cluster.
        alike: all clusters have the same mean, within rounding.
    """

    n: int
    mean: float
    sizes: np.ndarray
    residuals: np.ndarray
    error: float
    effective_n: float
    alike: bool


def spread_of(values: np.ndarray, clusters: Sequence[str] | None) -> Spread:
    """The mean of values [n], a label an item; None: every item is a cluster of its own."""
    labels = np.arange(values.size) if clusters is None else np.asarray(clusters)
    _, index = np.unique(labels, return_inverse=True)
    sizes = np.bincount(index).astype(float)
    mean = float(values.mean())
    residuals = np.bincount(index, weights=values - mean)
    m, n = sizes.size, values.size
    scale = float(np.abs(values).max())
    alike = bool(np.all(np.abs(residuals) <= 1e-12 * scale * sizes))
    if m == 1:
        return Spread(n, mean, sizes, residuals, math.nan, 1.0, True)
    error = 0.0 if alike else math.sqrt(m / (m - 1) * float(residuals @ residuals)) / n
    variance = float(values.var(ddof=1))
    if variance <= (1e-12 * scale) ** 2:  # nothing varies, so nothing tells how clusters do
        effective = float(m)
    else:
        effective = min(float(n), variance / error**2) if error else float(n)
    return Spread(n, mean, sizes, residuals, error, effective, alike)


def wilson(successes: float | int, n: float | int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927).

    Both may be effective numbers, no integers, which SciPy's ``proportion_ci`` does not take.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def effective_size(values: np.ndarray, clusters: Sequence[str], level: float = 0.95) -> float:
    """How many independent items tell as much about a rate as these do.

    n / deff, at most n; deff = V / (p (1 - p) / (n - 1)) with V the variance of the mean p when
    clusters are drawn whole: ``K / (K - 1) * sum_k (sum_{i in k} (v_i - p))^2 / n^2``. Times
    (z / t)^2, t of K - 1 degrees of freedom, for V is known from K clusters only.
    Source: Korn, Graubard 1998, Survey Methodology 24(2).

    Where all values are alike nothing tells how clusters do, and each counts once. Items of one
    cluster alone are taken one by one: what is seen then holds for that user.

    Args:
        values: shares in [0, 1], one an item [n].
        clusters: a label an item.
        level: coverage of the interval that this is for.
    """
    values = np.asarray(values, float)
    if len(set(clusters)) == 1:
        return float(values.size)
    spread = spread_of(values, clusters)
    count, n = spread.sizes.size, spread.n
    if count == n:
        return float(n)
    binomial = spread.mean * (1 - spread.mean) / (n - 1)
    if binomial <= 1e-12:
        return float(count)
    size = min(float(n), n * binomial / spread.error**2) if spread.error else float(n)
    z = NormalDist().inv_cdf((1 + level) / 2)
    return size * (z / student_quantile(level, count - 1)) ** 2


def clustered_rate(
    values: np.ndarray, clusters: Sequence[str], level: float = 0.95
) -> tuple[float, float]:
    """Wilson's interval of a rate at the effective number of items; [0, 1] of none.

    Source: Dean, Pagano 2015, Journal of Survey Statistics and Methodology 3(4), doi
    10.1093/jssam/smv024. Half values vary less than whole ones, so with ties it is too wide.

    Args:
        values: 0 or 1, or a share between [n].
        clusters: a label an item.
        level: coverage, in (0, 1).
    """
    if not len(values):
        return 0.0, 1.0
    size = effective_size(values, clusters, level)
    low, high = wilson(float(np.mean(values)) * size, size, level)
    return max(0.0, low), min(1.0, high)
