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


def paired_bootstrap_among(
    base: np.ndarray,
    base_counts: np.ndarray,
    adapter: np.ndarray,
    adapter_counts: np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of ``mean(adapter) - mean(base)``, each over the items that count there.

    Items are resampled, both sides of one together; draws in which nothing counts on a side are
    left out.

    Args:
        base: value of each item under the base [n].
        base_counts: 1 where the item counts there, else 0 [n].
        adapter: value of the same items under the adapter [n].
        adapter_counts: likewise [n].
        resamples: draws.
        seed: of numpy's generator.
        level: coverage, in (0, 1).

    Raises:
        ValueError: lengths differ, or nothing counts on a side.
    """
    sides = [np.asarray(a, float) for a in (base, base_counts, adapter, adapter_counts)]
    if len({side.shape for side in sides}) > 1 or sides[0].ndim != 1:
        raise ValueError("all four must be one-dimensional and of one length")
    if not sides[1].any() or not sides[3].any():
        raise ValueError("at least one item must count on each side")
    sums = np.stack([sides[0] * sides[1], sides[1], sides[2] * sides[3], sides[3]])
    rng = np.random.default_rng(seed)
    size = sums.shape[1]
    deltas = []
    for start in range(0, resamples, 256):
        draw = rng.integers(0, size, (min(256, resamples - start), size))
        totals = sums[:, draw].sum(axis=2)
        totals = totals[:, (totals[1] > 0) & (totals[3] > 0)]
        deltas.append(totals[2] / totals[3] - totals[0] / totals[1])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(deltas), [tail, 1 - tail])
    total = sums.sum(axis=1)
    delta = float(total[2] / total[3] - total[0] / total[1])
    return Interval(delta, float(low), float(high), int(size))


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
