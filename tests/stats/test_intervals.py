"""Intervals of rates against SciPy, statsmodels, closed forms and simulated users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from mipo_mlx.stats.intervals import (
    clustered_rate,
    effective_size,
    student_p,
    student_quantile,
    wilson,
)


def test_votes_of_as_many_users_are_plain_wilson() -> None:
    values = np.array([1.0] * 7 + [0.0] * 3)
    found = clustered_rate(values, [str(n) for n in range(10)])
    low, high = scipy.stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert found == pytest.approx((low, high), abs=1e-12)


def test_answers_of_one_user_are_told_of_that_user() -> None:
    low, high = scipy.stats.binomtest(28, 30).proportion_ci(method="wilson")
    found = clustered_rate(np.array([1.0] * 28 + [0.0] * 2), ["me"] * 30)
    assert found == pytest.approx((low, high), abs=1e-12)


def test_a_single_opinion_counts_every_user_and_no_votes_tell_nothing() -> None:
    for opinion in (1.0, 0.0, 0.5):
        shares = np.full(10, opinion)
        if opinion != 0.5:
            found = effective_size(shares, [str(n // 2) for n in range(10)])
            assert found == 5
        assert effective_size(shares, ["me"] * 10) == 10
        assert effective_size(shares, [str(n) for n in range(10)]) == 10
    low, high = clustered_rate(np.ones(10), ["me"] * 10)
    assert high == 1.0
    assert low == pytest.approx(scipy.stats.binomtest(10, 10).proportion_ci(method="wilson").low)
    assert clustered_rate(np.array([]), []) == (0.0, 1.0)


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
        low, high = clustered_rate(values, clusters)
        held += low <= truth <= high
        low, high = wilson(int(values.sum()), len(values))
        plain += low <= truth <= high
    assert held / 1000 >= 0.93
    assert plain / 1000 < 0.85


@pytest.mark.parametrize("t", [0.0, 0.3, -2.1, 7.0])
def test_student_has_its_closed_forms(t: float) -> None:
    size = abs(t)
    closed = {
        1: 1 - 2 / math.pi * math.atan(size),
        2: 1 - size / math.sqrt(2 + t * t),
        3: 1 - 2 / math.pi * (math.atan(size / 3**0.5) + size / 3**0.5 / (1 + t * t / 3)),
    }
    for freedom, p in closed.items():
        assert student_p(t, freedom) == pytest.approx(p, abs=1e-13)
        if t:
            assert student_quantile(1 - p, freedom) == pytest.approx(size, rel=1e-9)
    assert student_quantile(0.95, 30) == pytest.approx(2.042272, abs=1e-6)  # of printed tables
    assert student_quantile(0.95, 10**9) == pytest.approx(1.959964, abs=1e-6)


def test_rates_near_one_keep_their_level_where_all_users_often_agree() -> None:
    rng = np.random.default_rng(6)
    clusters = [str(n) for n in range(12) for _ in range(4)]
    held = alike = 0
    for _ in range(2000):
        likes = np.repeat(rng.beta(0.95 * 7 / 3, 0.05 * 7 / 3, 12), 4)  # correlation 0.3
        values = (rng.random(48) < likes).astype(float)
        low, high = clustered_rate(values, clusters)
        held += low <= 0.95 <= high
        alike += values.min() == 1
    assert held / 2000 >= 0.94
    assert alike / 2000 > 0.1


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (1, 30), (8, 10), (150, 256), (64, 64)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_statsmodels_and_scipy(successes: int, n: int, level: float) -> None:
    got = wilson(successes, n, level)
    wanted = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    exact = scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(got, (exact.low, exact.high), atol=1e-12)


def test_wilson_of_users_covers_where_that_of_answers_does_not() -> None:
    rng = np.random.default_rng(9)
    labels = [str(index) for index in np.repeat(np.arange(60), 6)]
    held, naively = 0, 0
    for _ in range(500):
        rates = np.repeat(rng.beta(0.7 * 7 / 3, 0.3 * 7 / 3, 60), 6)  # correlation 0.3, mean 0.7
        values = (rng.random(360) < rates).astype(float)
        low, high = clustered_rate(values, labels)
        held += low <= 0.7 <= high
        low, high = wilson(float(values.sum()), 360)
        naively += low <= 0.7 <= high
    assert 0.93 <= held / 500 <= 0.98
    assert naively / 500 < 0.85


def test_wilson_of_independent_answers_is_the_plain_one() -> None:
    values = (np.arange(50) < 12).astype(float)
    assert clustered_rate(values, [str(n) for n in range(50)]) == pytest.approx(wilson(12, 50))
    labels = [str(index // 5) for index in range(50)]
    assert clustered_rate(np.zeros(50), labels)[0] == pytest.approx(0, abs=1e-12)
    # A rate of 0 does not tell how alike answers of a user are: 10 users count as 10 answers.
    assert 0.27 < clustered_rate(np.zeros(50), labels)[1] < 0.36
