"""Intervals against simulation, tests and rates against scipy and statsmodels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import TTestPower

from mipo_mlx.stats.bootstrap import Counted, needed, paired_bootstrap, paired_bootstrap_among

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


def test_bootstrap_among_all_items_is_that_of_all_items() -> None:
    rng = np.random.default_rng(5)
    base, adapter = rng.normal(0, 1, 80), rng.normal(0.3, 1, 80)
    ones = np.ones(80)
    got = paired_bootstrap_among(
        Counted(base, ones), Counted(adapter, ones), resamples=2000, seed=1
    )
    want = paired_bootstrap(base, adapter, resamples=2000, seed=2)
    assert got.delta == pytest.approx(want.delta)
    assert [got.low, got.high] == pytest.approx([want.low, want.high], abs=0.03)


def test_bootstrap_among_some_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(6)
    values = [rng.normal(mean, 1, 2000) for mean in (0.0, 1.0)]
    counts = [(rng.random(2000) < share).astype(float) for share in (0.3, 0.6)]
    for column, some in zip(values, counts, strict=True):
        column[some == 0] = 1e6  # what does not count has no say
    got = paired_bootstrap_among(*map(Counted, values, counts), seed=0)
    own = [column[some > 0] for column, some in zip(values, counts, strict=True)]
    delta = own[1].mean() - own[0].mean()
    half = 1.96 * math.sqrt(sum(column.var() / len(column) for column in own))
    assert got.delta == pytest.approx(delta)
    assert [got.low, got.high] == pytest.approx([delta - half, delta + half], abs=0.01)
    whole = Counted(values[1], counts[1])
    with pytest.raises(ValueError, match="one length"):
        paired_bootstrap_among(Counted(values[0][:3], counts[0]), whole, seed=0)
    with pytest.raises(ValueError, match="at least one item"):
        paired_bootstrap_among(Counted(values[0], 0 * counts[0]), whole, seed=0)
