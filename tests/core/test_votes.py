"""Figures of votes against scipy, hand values and simulated voters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from mipo_mlx.stats.intervals import student_quantile, wilson
from mipo_mlx.stats.votes import effective_size, kappa, rate, sign_test


def test_votes_of_as_many_users_are_plain_wilson() -> None:
    values = np.array([1.0] * 7 + [0.0] * 3)
    found = rate(values, [str(n) for n in range(10)])
    low, high = scipy.stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert found == pytest.approx((0.7, low, high), abs=1e-12)
    assert rate(values, ["one"] * 10) == found


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 100])
def test_quantiles_are_students(freedom: int) -> None:
    for level in (0.5, 0.9, 0.95, 0.99):
        oracle = scipy.stats.t.ppf((1 + level) / 2, freedom)
        assert student_quantile(level, freedom) == pytest.approx(oracle, rel=1e-4)


def test_a_single_opinion_counts_every_user_and_no_votes_tell_nothing() -> None:
    for opinion in (1.0, 0.0, 0.5):
        shares = np.full(10, opinion)
        if opinion != 0.5:
            found = effective_size(shares, [str(n // 2) for n in range(10)])
            assert found == 5
        assert effective_size(shares, ["me"] * 10) == 10
        assert effective_size(shares, [str(n) for n in range(10)]) == 10
    mean, low, high = rate(np.ones(10), ["me"] * 10)
    assert (mean, high) == (1.0, 1.0)
    assert low == pytest.approx(scipy.stats.binomtest(10, 10).proportion_ci(method="wilson").low)
    mean, low, high = rate(np.array([]), [])
    assert math.isnan(mean) and (low, high) == (0.0, 1.0)


def test_users_who_repeat_themselves_count_about_once() -> None:
    opinions = [1, 1, 1, 0, 1, 0, 1, 1, 0, 1]
    values = np.repeat(np.array(opinions, float), 6)
    clusters = [str(n) for n in range(10) for _ in range(6)]
    # V = p (1 - p) / (K - 1), so n / deff = n (K - 1) / (n - 1)
    ratio = scipy.stats.norm.ppf(0.975) / scipy.stats.t.ppf(0.975, 9)
    assert effective_size(values, clusters) == pytest.approx(60 * 9 / 59 * ratio**2, rel=1e-4)


@pytest.mark.parametrize(("users", "each"), [(2, 8), (3, 8), (6, 8), (24, 4)])
def test_the_interval_holds_its_level_when_users_differ(users: int, each: int) -> None:
    rng = np.random.default_rng(5)
    truth = 2 / 3
    clusters = [str(n) for n in range(users) for _ in range(each)]
    held = plain = 0
    for _ in range(1000):
        likes = np.repeat(rng.beta(1.0, 0.5, users), each)
        values = (rng.random(users * each) < likes).astype(float)
        _, low, high = rate(values, clusters)
        held += low <= truth <= high
        low, high = wilson(int(values.sum()), len(values))
        plain += low <= truth <= high
    assert held / 1000 >= 0.93
    assert plain / 1000 < 0.85


@pytest.mark.parametrize("first", range(9))
def test_sign_test_is_scipys(first: int) -> None:
    for second in range(13):
        if first + second:
            oracle = scipy.stats.binomtest(first, first + second).pvalue
            assert sign_test(first, second) == pytest.approx(oracle)
    assert sign_test(0, 0) == 1.0


def test_kappa_of_a_known_table() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 0.7 seen, 0.5 by chance
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa(first, first) == pytest.approx(1.0)
    assert math.isnan(kappa(["yes"] * 3, ["yes"] * 3))
