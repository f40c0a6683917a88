"""Bootstrap intervals of differences, with users as clusters. numpy float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mipo_mlx.stats.intervals import Spread, spread_of, student_p, student_quantile

FLOOR = 0.2  # a resample's standard error counts as at least this share of the sample's
CHUNK = 1 << 18  # draws at once; bounds the memory of resampling


@dataclass(frozen=True)
class Interval:
    """A mean difference with its interval.

    Attributes:
        delta: mean over items.
        low, high: ends of the interval.
        n: items.
        p: two-sided; at most ``1 - level`` just where the interval excludes 0.
        clusters: what was resampled.
        error: standard error of ``delta`` with clusters whole.
        effective_n: independent items that would give this error, at most ``n``.
    """

    delta: float
    low: float
    high: float
    n: int
    p: float
    clusters: int
    error: float
    effective_n: float


def _studentized(spread: Spread, resamples: int, seed: int) -> np.ndarray:
    """``(mean* - mean) / error*`` of resampled clusters [resamples], sorted."""
    rng = np.random.default_rng(seed)
    m = spread.sizes.size
    e, w = spread.residuals, spread.sizes
    moments = np.stack([w, e, e * e, e * w, w * w], axis=1)
    found = np.empty(resamples)
    step = max(1, CHUNK // m)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draw = rng.integers(0, m, (rows, m)) + m * np.arange(rows)[:, None]
        counts = np.bincount(draw.ravel(), minlength=rows * m).reshape(rows, m)
        size, sums, ee, ew, ww = (counts @ moments).T
        shift = sums / size
        square = np.maximum(ee - 2 * shift * ew + shift**2 * ww, 0.0)
        error = np.sqrt(square * m / (m - 1)) / size
        found[start : start + rows] = shift / np.maximum(error, FLOOR * spread.error)
    found.sort()
    return found


@dataclass(frozen=True)
class Between:
    """A difference of means with its interval, the items behind it, and a two-sided p."""

    delta: float
    low: float
    high: float
    n: int
    p: float


def paired_bootstrap(
    base: np.ndarray,
    adapter: np.ndarray,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Interval and p of ``mean(adapter - base)``: at each end the wider of two.

    Bootstrap-t (Efron, Tibshirani 1993, ch. 12.5) follows the skew of few clusters, which
    percentiles do not; Student's t, clusters - 1 degrees of freedom, holds where few of them
    changed at all and resampled errors collapse (these have a floor). ``p`` is the larger of the
    two. Simulated coverage: docs/log.md.

    Where all clusters agree exactly there is no error to go by: the interval is the one value, and
    p that of flipping signs, ``2^(1 - clusters)``; where this is not small the interval reaches 0.

    Args:
        base: value of each item under the base [n].
        adapter: value of the same items under the adapter [n].
        clusters: a label an item; clusters are resampled whole. None: every item is its own.
        resamples: draws, at least ``2 / (1 - level)``.
        seed: of numpy's generator.
        level: coverage, in (0, 1).

    Raises:
        ValueError: no items, lengths that differ, or too few resamples.
    """
    if np.ndim(base) != 1 or np.shape(base) != np.shape(adapter) or not np.size(base):
        raise ValueError("base and adapter must be one-dimensional, of one length, not empty")
    rank = math.floor((resamples + 1) * (1 - level) / 2 + 1e-9)  # of the outermost t* left out
    if rank < 1:
        raise ValueError(f"{resamples} resamples are too few for a level of {level}")
    spread = spread_of(np.asarray(adapter, float) - np.asarray(base, float), clusters)
    m, delta = spread.sizes.size, spread.mean
    if spread.alike:
        p = 1.0 if delta == 0 else 2.0 ** (1 - m)
        reach = 0.0 if p > 1 - level else delta
        low, high = min(delta, reach), max(delta, reach)
    else:
        drawn = _studentized(spread, resamples, seed)
        t = student_quantile(level, m - 1)
        low = delta - spread.error * max(t, float(drawn[resamples - rank]))
        high = delta - spread.error * min(-t, float(drawn[rank - 1]))
        seen = delta / spread.error
        beyond = min(int((drawn >= seen).sum()), int((drawn <= seen).sum()))
        p = max(min(1.0, 2 * (beyond + 1) / (resamples + 1)), student_p(seen, m - 1))
    return Interval(delta, low, high, spread.n, p, m, spread.error, spread.effective_n)


@dataclass(frozen=True)
class Counted:
    """Values of one side, of which some count.

    Attributes:
        values: a value an item [n].
        counts: 1 where the item counts, else 0 [n].
    """

    values: np.ndarray
    counts: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """The values that count."""
        return np.asarray(self.values[self.counts > 0])


def paired_bootstrap_among(
    base: Counted,
    adapter: Counted,
    *,
    resamples: int = 10_000,
    seed: int,
    level: float = 0.95,
) -> Between:
    """Percentile bootstrap of ``mean(adapter) - mean(base)``, each over the items that count there.

    Items are resampled, both sides of one together; draws in which nothing counts on a side are
    left out.

    Args:
        base: of each item [n].
        adapter: of the same items [n].
        resamples: draws.
        seed: of numpy's generator.
        level: coverage, in (0, 1).

    Raises:
        ValueError: lengths differ, or nothing counts on a side.
    """
    parts = (base.values, base.counts, adapter.values, adapter.counts)
    sides = [np.asarray(part, float) for part in parts]
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
    drawn = np.concatenate(deltas)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    total = sums.sum(axis=1)
    delta = float(total[2] / total[3] - total[0] / total[1])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return Between(delta, float(low), float(high), int(size), p)


def needed(found: Interval, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Clusters like those seen that would show a difference of the size seen.

    ``m ((z_{1 - alpha / 2} + z_power) error / delta)^2`` (Cochran 1977, ch. 4): with as many, a
    two-sided test at ``alpha`` sees it with probability ``power``. None where there is no number:
    no difference, or one cluster alone.
    """
    if found.delta == 0 or math.isnan(found.error):
        return None
    if found.error == 0:  # all agree: as many as make 2^(1 - clusters) small
        return math.ceil(1 - math.log2(alpha))
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    return max(2, math.ceil(found.clusters * (z * found.error / found.delta) ** 2))
