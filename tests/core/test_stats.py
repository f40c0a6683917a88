"""Intervals against simulation, tests and rates against scipy and statsmodels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from mipo_mlx.stats.intervals import (
    clustered_wilson,
    holm,
    mcnemar,
    needed,
    paired_bootstrap,
    student_p,
    student_quantile,
    wilson,
)

Sample = tuple[np.ndarray, np.ndarray, list[str]]
KINDS = ("normal", "skewed", "accuracy", "rare")
RATES = {"accuracy": (0.5, 0.65), "rare": (0.03, 0.08)}


def sample(kind: str, users: int, rng: np.random.Generator, *, null: bool = False) -> Sample:
    """Base, adapter and user of each answer; 1 to 12 answers a user, who share an effect."""
    sizes = rng.integers(1, 13, users)
    user = np.repeat(np.arange(users), sizes)
    labels = [f"user{index}" for index in user]
    n = user.size
    if kind in RATES:
        before, after = RATES[kind]
        after = before if null else after
        level, taste = rng.normal(size=users), 0.3 * rng.normal(size=users)
        shared = 0.5 * level[user] + 0.5 * rng.normal(size=n)
        latent = [shared + math.sqrt(0.5) * rng.normal(size=n) for _ in range(2)]
        tilted = (latent[1] + taste[user]) / math.sqrt(1.09)
        base = latent[0] < reference.norm.ppf(before)
        return base.astype(float), (tilted < reference.norm.ppf(after)).astype(float), labels
    if kind == "normal":
        difference = 0.7 * rng.normal(size=users)[user] + rng.normal(size=n)
    else:  # skewed in users and in answers
        difference = 0.7 * rng.exponential(size=users)[user] + rng.exponential(size=n) - 1.7
    base = rng.normal(size=n)
    return base, base + difference + (0.0 if null else 0.4), labels


def truth(kind: str) -> float:
    return RATES[kind][1] - RATES[kind][0] if kind in RATES else 0.4


def coverage(kind: str, users: int, draws: int, resamples: int) -> float:
    """Share of intervals that hold the true difference."""
    rng = np.random.default_rng(KINDS.index(kind))
    held = 0
    for seed in range(draws):
        base, adapter, labels = sample(kind, users, rng)
        got = paired_bootstrap(base, adapter, clusters=labels, resamples=resamples, seed=seed)
        held += got.low <= truth(kind) <= got.high
    return held / draws


def false_gains(kind: str, users: int, draws: int, resamples: int) -> float:
    """Share of intervals above 0 where there is no effect."""
    rng = np.random.default_rng(100 + KINDS.index(kind))
    found = 0
    for seed in range(draws):
        base, adapter, labels = sample(kind, users, rng, null=True)
        found += (
            paired_bootstrap(base, adapter, clusters=labels, resamples=resamples, seed=seed).low > 0
        )
    return found / draws


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_of_thirty_users_cover_and_claim_no_gain_without_one(kind: str) -> None:
    assert 0.93 <= coverage(kind, 30, 300, 500) <= 0.98
    assert false_gains(kind, 30, 300, 500) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("users", [30, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_in_a_thousand_draws(kind: str, users: int) -> None:
    assert 0.93 <= coverage(kind, users, 1000, 2000) <= 0.97
    assert false_gains(kind, users, 1000, 2000) <= 0.05


def naive(difference: np.ndarray, labels: list[str], seed: int) -> tuple[float, float]:
    """Bootstrap-t or Student's t, whichever reaches further; users one by one, in plain loops."""
    names = sorted(set(labels))
    groups = [difference[[label == name for label in labels]] for name in names]

    def fit(chosen: list[np.ndarray]) -> tuple[float, float]:
        every = np.concatenate(chosen)
        residuals = [float((group - every.mean()).sum()) for group in chosen]
        m = len(chosen)
        return every.mean(), math.sqrt(m / (m - 1) * sum(e * e for e in residuals)) / every.size

    centre, error = fit(groups)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(4000):
        mean, its = fit([groups[index] for index in rng.integers(0, len(groups), len(groups))])
        drawn.append((mean - centre) / its)
    low, high = np.quantile(drawn, [0.025, 0.975])
    t = reference.t.ppf(0.975, len(groups) - 1)
    return centre - error * max(t, high), centre + error * max(t, -low)


def test_the_interval_is_that_of_plain_loops() -> None:
    base, adapter, labels = sample("normal", 25, np.random.default_rng(3))
    adapter = base + np.exp(0.5 * (adapter - base))
    got = paired_bootstrap(base, adapter, clusters=labels, seed=1)
    low, high = naive(adapter - base, labels, 2)
    width = got.high - got.low
    assert got.low == pytest.approx(low, abs=0.03 * width)
    assert got.high == pytest.approx(high, abs=0.03 * width)
    assert got.delta - got.low < 0.9 * (got.high - got.delta)  # it follows the skew


def test_error_and_effective_n_are_those_of_a_cluster_robust_fit() -> None:
    base, adapter, labels = sample("normal", 40, np.random.default_rng(4))
    difference = adapter - base
    groups = np.unique(labels, return_inverse=True)[1]
    fitted = OLS(difference, np.ones(difference.size)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": False}
    )
    got = paired_bootstrap(base, adapter, clusters=labels, seed=0)
    m, n = 40, difference.size
    # statsmodels multiplies by m / (m - 1) and by (n - 1) / (n - 1).
    assert got.error == pytest.approx(fitted.bse[0], rel=1e-9)
    assert got.effective_n == pytest.approx(difference.var(ddof=1) / fitted.bse[0] ** 2, rel=1e-9)
    assert (got.clusters, got.n) == (m, n)


def test_effective_n_is_that_of_the_design_effect() -> None:
    rng = np.random.default_rng(5)
    users, each, shared = 2000, 5, 0.4  # intraclass correlation
    labels = [str(index) for index in np.repeat(np.arange(users), each)]
    effect = np.repeat(rng.normal(0, math.sqrt(shared), users), each)
    values = effect + rng.normal(0, math.sqrt(1 - shared), users * each)
    got = paired_bootstrap(np.zeros(values.size), values, clusters=labels, resamples=100, seed=0)
    assert got.effective_n == pytest.approx(users * each / (1 + (each - 1) * shared), rel=0.05)
    alone = paired_bootstrap(np.zeros(values.size), values, resamples=100, seed=0)
    assert alone.effective_n == pytest.approx(alone.n)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_level_at_which_the_interval_reaches_zero(seed: int) -> None:
    base, adapter, labels = sample("skewed", 20, np.random.default_rng(seed))
    shift = 0.4 * (seed % 3)  # clear of 0, close to it, beyond it
    options: dict[str, Any] = {"clusters": labels, "resamples": 999, "seed": seed}
    p = paired_bootstrap(base, adapter - shift, **options).p
    assert 0.002 <= p <= 1
    for level, clear in ((1 - 1.02 * p, True), (1 - 0.98 * p, False)):
        if 0 < level < 0.998:
            got = paired_bootstrap(base, adapter - shift, **options, level=level)
            assert (got.low > 0 or got.high < 0) == clear, (p, level)


def test_p_is_uniform_without_effect() -> None:
    rng = np.random.default_rng(7)
    found = []
    for seed in range(400):
        base, adapter, labels = sample("normal", 40, rng, null=True)
        found.append(paired_bootstrap(base, adapter, clusters=labels, resamples=400, seed=seed).p)
    assert reference.kstest(found, "uniform").statistic < 0.08


def test_few_users_who_agree_prove_little() -> None:
    for users, p in ((1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125), (12, 2.0**-11)):
        labels = [str(index // 3) for index in range(3 * users)]
        got = paired_bootstrap(np.zeros(3 * users), np.ones(3 * users), clusters=labels, seed=0)
        assert got.p == p
        assert (got.low, got.high) == (float(p <= 0.05), 1.0)
        assert needed(got) == (None if users == 1 else 6)
    same = paired_bootstrap(np.full(9, 0.1), np.full(9, 0.1), clusters=[*"aabbccdde"], seed=0)
    assert (same.low, same.high, same.p, needed(same)) == (0.0, 0.0, 1.0, None)


def test_where_two_users_changed_no_end_is_infinite() -> None:
    values = np.zeros(30)
    values[:2] = 1.0
    got = paired_bootstrap(np.zeros(30), values, seed=0)
    assert -0.1 < got.low < 0 < 0.1 < got.high < 1
    assert 0.05 < got.p < 0.5


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="30 resamples are too few"):
        paired_bootstrap(np.zeros(9), np.arange(9.0), resamples=30, seed=0)


def test_student_agrees_with_scipy() -> None:
    for freedom in (1, 2, 3, 4, 7, 30, 199, 1000):
        for t in (0.0, 0.3, -2.1, 7.0):
            wanted = 2 * reference.t.sf(abs(t), freedom)
            assert student_p(t, freedom) == pytest.approx(wanted, abs=1e-13)
        for level in (0.5, 0.95, 0.999):
            wanted = reference.t.ppf((1 + level) / 2, freedom)
            assert student_quantile(level, freedom) == pytest.approx(wanted, rel=1e-9)


def test_needed_agrees_with_statsmodels_and_gives_the_power() -> None:
    rng = np.random.default_rng(8)
    effect = rng.normal(0.4, 1.0, 50)
    labels = [str(index) for index in np.repeat(np.arange(50), 4)]
    got = paired_bootstrap(np.zeros(200), np.repeat(effect, 4), clusters=labels, seed=0)
    size = abs(effect.mean()) / effect.std(ddof=1)
    wanted = TTestPower().solve_power(size, power=0.8, alpha=0.05)
    users = needed(got)
    assert users == pytest.approx(wanted, abs=3)  # a normal for a t costs about two
    assert users is not None
    found = 0
    for seed in range(300):
        values = rng.normal(effect.mean(), effect.std(ddof=1), users)
        found += paired_bootstrap(np.zeros(users), values, resamples=400, seed=seed).p <= 0.05
    assert found / 300 == pytest.approx(0.8, abs=0.07)
    stricter = needed(got, alpha=0.05 / 3)
    wanted = TTestPower().solve_power(size, power=0.8, alpha=0.05 / 3)
    assert stricter == pytest.approx(wanted, abs=4)


@pytest.mark.parametrize("seed", range(8))
def test_mcnemar_agrees_with_statsmodels_and_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = (6, 40, 900, 3000)[seed % 4]
    base = (rng.random(n) < 0.5).astype(float)
    adapter = np.where(rng.random(n) < 0.3, rng.random(n) < 0.6, base).astype(float)
    table = [[np.sum((base == i) & (adapter == j)) for j in (1, 0)] for i in (1, 0)]
    wanted = reference_mcnemar(table, exact=True).pvalue
    assert mcnemar(base, adapter) == pytest.approx(wanted, rel=1e-8, abs=1e-300)
    changed = int(table[0][1] + table[1][0])
    if changed:
        sign = reference.binomtest(int(table[0][1]), changed).pvalue
        assert mcnemar(base, adapter) == pytest.approx(sign, rel=1e-8, abs=1e-300)


def test_mcnemar_where_nothing_changed() -> None:
    assert mcnemar(np.ones(5), np.ones(5)) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_holm_agrees_with_statsmodels(seed: int) -> None:
    p = np.random.default_rng(seed).random(1 + seed) ** 3
    wanted = multipletests(p, method="holm")[1]
    np.testing.assert_allclose(holm([float(value) for value in p]), wanted, rtol=1e-12)


def test_holm_of_ties_and_of_none() -> None:
    assert holm([]) == []
    assert holm([0.02, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (1, 30), (8, 10), (150, 256), (64, 64)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_statsmodels_and_scipy(successes: int, n: int, level: float) -> None:
    got = wilson(successes, n, level)
    wanted = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    exact = reference.binomtest(successes, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(got, (exact.low, exact.high), atol=1e-12)


def test_wilson_of_users_covers_where_that_of_answers_does_not() -> None:
    rng = np.random.default_rng(9)
    labels = [str(index) for index in np.repeat(np.arange(60), 6)]
    held, naively = 0, 0
    for _ in range(500):
        rates = np.repeat(rng.beta(0.7 * 7 / 3, 0.3 * 7 / 3, 60), 6)  # correlation 0.3, mean 0.7
        values = (rng.random(360) < rates).astype(float)
        low, high = clustered_wilson(values, labels)
        held += low <= 0.7 <= high
        low, high = wilson(float(values.sum()), 360)
        naively += low <= 0.7 <= high
    assert 0.93 <= held / 500 <= 0.98
    assert naively / 500 < 0.85


def test_wilson_of_independent_answers_is_the_plain_one() -> None:
    values = (np.arange(50) < 12).astype(float)
    assert clustered_wilson(values) == pytest.approx(wilson(12, 50))
    labels = [str(index // 5) for index in range(50)]
    assert clustered_wilson(np.zeros(50), labels)[0] == 0
    # A rate of 0 does not tell how alike answers of a user are: 10 users count as 10 answers.
    assert 0.27 < clustered_wilson(np.zeros(50), labels)[1] < 0.36
