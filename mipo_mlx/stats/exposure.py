"""How memory shows: ranks of secrets among what they might have been, and two groups of users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mipo_mlx.stats.intervals import student_p, student_quantile


def ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each value in its row, 1 the largest; equal values all take the last of their ranks.

    Args:
        scores: [n], or rows of it [m, n].
    """
    rows = np.atleast_2d(scores)
    below = np.array([np.searchsorted(np.sort(row), row, side="left") for row in rows])
    return np.array(scores.shape[-1] - below).reshape(scores.shape)


def exposure(rank: np.ndarray, count: int) -> np.ndarray:
    """``log2(count) - log2(rank)``, bits (Carlini et al. 2019, "The Secret Sharer", section 4.2).

    Where nothing is known of a secret each rank is equally likely, and the mean 1.44 bits less a
    little.
    """
    return np.asarray(np.log2(count) - np.log2(rank))


def risen(base: np.ndarray, adapter: np.ndarray, top: int) -> np.ndarray:
    """Which values rose to the ``top`` ranks from outside, after at least one opening. bool [n]

    Args:
        base: ranks after each opening [openings, n].
        adapter: the same of the adapter.
        top: ranks that count.
    """
    return np.asarray(np.any((base > top) & (adapter <= top), axis=0))


@dataclass(frozen=True)
class Chance:
    """What chance alone gives: the number expected, and the probability of that many or more."""

    expected: float
    p: float


def chance(seen: int, groups: Sequence[tuple[int, int, int]]) -> Chance:
    """Successes among values drawn blindly: exact, a sum of hypergeometric numbers.

    Args:
        seen: successes in all groups.
        groups: of each its size, how many of its values are successes, how many are drawn without
            replacement.
    """
    total = np.ones(1)
    for size, successes, drawn in groups:
        ways = math.comb(size, drawn)
        single = [
            math.comb(successes, k) * math.comb(size - successes, drawn - k) / ways
            for k in range(drawn + 1)
        ]
        total = np.convolve(total, single)
    expected = math.fsum(drawn * successes / size for size, successes, drawn in groups)
    return Chance(expected, min(1.0, float(total[seen:].sum())))


@dataclass(frozen=True)
class Difference:
    """A difference of two groups' means with its 95% interval and two-sided p."""

    delta: float
    low: float
    high: float
    p: float


def difference(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Difference:
    """``mean(first) - mean(second)`` by Welch's t (1947), degrees of freedom rounded down.

    Where nothing varies in either group there is no error to go by: p is then that of flipping
    signs, ``2^(1 - n)`` over both, and where this is not small the interval reaches 0.

    Args:
        first: a value a user, two users or more [m].
        second: likewise of other users.
        level: coverage of the interval.

    Raises:
        ValueError: a group has fewer than two.
    """
    if min(first.size, second.size) < 2:
        raise ValueError("two users or more are needed in each group")
    delta = float(first.mean() - second.mean())
    parts = [float(group.var(ddof=1)) / group.size for group in (first, second)]
    error = math.sqrt(sum(parts))
    if error <= 1e-12 * float(np.abs(np.concatenate([first, second])).max()):
        p = 1.0 if delta == 0 else 2.0 ** (1 - first.size - second.size)
        reach = 0.0 if p > 1 - level else delta
        return Difference(delta, min(delta, reach), max(delta, reach), p)
    spread = sum(
        part**2 / (group.size - 1) for part, group in zip(parts, (first, second), strict=True)
    )
    freedom = max(1, math.floor(error**4 / spread + 1e-9))
    half = error * student_quantile(level, freedom)
    return Difference(delta, delta - half, delta + half, student_p(delta / error, freedom))
