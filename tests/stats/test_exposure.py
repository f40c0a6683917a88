"""Ranks, exposure, exact chance and two groups, against brute force and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mipo_mlx.stats.exposure import chance, difference, exposure, ranks, risen


def test_ranks_count_from_the_largest_and_ties_count_against_a_secret() -> None:
    assert ranks(np.array([0.5, 2.0, -1.0, 2.0])).tolist() == [3, 2, 4, 2]
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, (5, 60)).astype(float)
    expected = [[sum(other >= value for other in row) for value in row] for row in scores]
    assert ranks(scores).tolist() == expected
    whole = rng.normal(size=1000)
    assert (ranks(whole) == stats.rankdata(-whole, "max")).all()


def test_exposure_in_bits() -> None:
    got = exposure(np.array([1, 2, 10, 1000]), 1000)
    np.testing.assert_allclose(got, [9.965784, 8.965784, 6.643856, 0.0], atol=1e-6)
    mean = exposure(np.arange(1, 1001), 1000).mean()
    assert mean == pytest.approx(math.log2(1000) - math.log2(math.factorial(1000)) / 1000)
    assert mean == pytest.approx(1.44, abs=0.01)


def test_a_secret_rises_only_from_outside() -> None:
    base = np.array([[11, 10, 11, 500, 11], [900, 900, 11, 12, 3]])
    adapter = np.array([[10, 1, 11, 11, 40], [900, 11, 900, 1, 1]])
    assert risen(base, adapter, 10).tolist() == [True, False, False, True, False]


def test_chance_is_that_of_all_draws() -> None:
    groups = [(6, 2, 3), (5, 1, 2), (4, 0, 1)]
    counts: dict[int, int] = {}
    for draws in itertools.product(
        *(itertools.combinations(range(size), drawn) for size, _, drawn in groups)
    ):
        found = sum(sum(v < hits for v in d) for d, (_, hits, _) in zip(draws, groups, strict=True))
        counts[found] = counts.get(found, 0) + 1
    total = sum(counts.values())
    for seen in range(4):
        got = chance(seen, groups)
        assert got.p == pytest.approx(sum(n for k, n in counts.items() if k >= seen) / total)
        assert got.expected == pytest.approx(sum(k * n for k, n in counts.items()) / total)
    alone = chance(2, [(1000, 30, 40)])
    assert alone.p == pytest.approx(stats.hypergeom(1000, 30, 40).sf(1))
    assert chance(0, []).p == 1


def test_two_groups_by_welch() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.4, 2, 300), rng.normal(0, 1, 200)
    got, want = difference(first, second), stats.ttest_ind(first, second, equal_var=False)
    assert got.p == pytest.approx(want.pvalue, rel=1e-2)
    interval = want.confidence_interval()
    assert [got.low, got.high] == pytest.approx([interval.low, interval.high], rel=1e-3)
    few, more = np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.5, 0.0, 1.0])
    want = stats.ttest_ind(few, more, equal_var=False)
    got = difference(few, more)
    t, freedom = want.statistic, math.floor(want.df)
    assert got.p == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-6)
    assert got.low == pytest.approx(got.delta - got.delta / t * stats.t.ppf(0.975, freedom))
    assert difference(more, few).delta == -got.delta


def test_two_groups_in_which_nothing_varies() -> None:
    same = difference(np.full(5, 0.3), np.full(4, 0.3))
    assert (same.delta, same.low, same.high, same.p) == (0, 0, 0, 1)
    few = difference(np.ones(2), np.zeros(2))
    assert (few.p, few.low, few.high) == (0.125, 0, 1)
    many = difference(np.ones(20), np.zeros(20))
    assert (many.p, many.low) == (2.0**-39, 1)
    with pytest.raises(ValueError, match="two users or more"):
        difference(np.ones(1), np.ones(5))
