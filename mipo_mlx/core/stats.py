"""Intervals. numpy float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean difference with its interval, and the number of items behind it."""

    delta: float
    low: float
    high: float
    n: int


def paired_bootstrap(
    base: np.ndarray,
    adapter: np.ndarray,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of ``mean(adapter - base)`` (Efron, Tibshirani 1993, ch. 13).

    Args:
        base: value of each item under the base [n].
        adapter: value of the same items under the adapter [n].
        clusters: a label an item; clusters are resampled whole. None: every item is its own.
        resamples: draws.
        seed: of numpy's generator.
        level: coverage, in (0, 1).

    Raises:
        ValueError: no items, or lengths that differ.
    """
    if np.ndim(base) != 1 or np.shape(base) != np.shape(adapter) or not np.size(base):
        raise ValueError("base and adapter must be one-dimensional, of one length, not empty")
    difference = np.asarray(adapter, float) - np.asarray(base, float)
    labels = np.arange(difference.size) if clusters is None else np.asarray(clusters)
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, weights=difference)
    sizes = np.bincount(index).astype(float)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, 256):
        draw = rng.integers(0, sums.size, (min(256, resamples - start), sums.size))
        means[start : start + len(draw)] = sums[draw].sum(axis=1) / sizes[draw].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high), int(difference.size))


def wilson(successes: int | float, n: int | float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927); counts may be effective, not whole."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
