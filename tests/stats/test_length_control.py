"""Win rates at equal length against statsmodels, scipy and simulated judges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import statsmodels.api as sm

from mipo_mlx.stats import length_control
from mipo_mlx.stats.length_control import fit, length_controlled, length_term


def judged(seed: int, n: int, theta: float, phi: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores and length differences of a judge who leans by ``phi``, a tenth of them ties."""
    rng = np.random.default_rng(seed)
    differences = np.round(rng.normal(40, 90, n))
    rates = 1 / (1 + np.exp(-theta - phi * np.tanh(differences / differences.std())))
    scores = (rng.random(n) < rates).astype(float)
    scores[rng.random(n) < 0.1] = 0.5
    return scores, differences


def test_lengths_count_in_standard_deviations_and_equal_ones_count_nothing() -> None:
    differences = np.array([-30.0, 0.0, 10.0, 300.0])
    assert length_term(differences) == pytest.approx(np.tanh(differences / differences.std()))
    assert length_term(differences)[1] == 0
    assert length_term(1000 * differences) == pytest.approx(length_term(differences))
    assert length_term(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_without_a_ridge_the_fit_is_that_of_statsmodels(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(length_control, "RIDGE", 0.0)
    scores, differences = judged(seed, 80, 0.4, 1.5)
    term = length_term(differences)
    rng = np.random.default_rng(seed)
    weights = np.stack([np.ones(80), rng.integers(0, 4, 80)]).astype(float)
    found = fit(scores, term, weights)
    for row, weight in zip(found, weights, strict=True):
        oracle = sm.GLM(
            scores, sm.add_constant(term), family=sm.families.Binomial(), freq_weights=weight
        )
        assert row == pytest.approx(oracle.fit(tol=1e-12).params, abs=1e-7)
    assert fit(scores, term, weights, found[0]) == pytest.approx(found, abs=1e-7)


@pytest.mark.parametrize("all_won", [False, True])
def test_with_its_ridge_the_fit_is_the_optimum_where_duels_are_separable(all_won: bool) -> None:
    differences = np.random.default_rng(1).normal(10, 50, 60)
    scores = np.ones(60) if all_won else (differences > 0).astype(float)
    term = length_term(differences)

    def loss(c: np.ndarray) -> float:
        logits = c[0] + c[1] * term
        return float(np.logaddexp(0, logits).sum() - scores @ logits + 0.005 * c @ c)

    fine = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 5000}
    oracle = scipy.optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options=fine)
    found = fit(scores, term, np.ones((1, 60)))[0]
    assert found == pytest.approx(oracle.x, abs=1e-4)
    assert fit(scores, term, np.ones((1, 60)), np.array([30.0, -30.0]))[0] == pytest.approx(
        found, abs=1e-6
    )


def test_a_judge_of_length_alone_is_exposed() -> None:
    differences = np.random.default_rng(3).normal(100, 100, 120)
    scores = (differences > 0).astype(float)
    users = [str(n // 4) for n in range(120)]
    found = length_controlled(scores, differences, users, resamples=500, seed=0)
    assert scores.mean() > 0.75
    assert found and found.low < 0.5 < found.high and abs(found.rate - 0.5) < 0.15
    assert found.lean_low > 5


def test_a_judge_who_does_not_look_at_length_keeps_the_rate() -> None:
    scores, differences = judged(5, 400, math.log(2), 0.0)
    users = [str(n // 4) for n in range(400)]
    found = length_controlled(scores, differences, users, resamples=500, seed=0)
    assert found and found.rate == pytest.approx(scores.mean(), abs=0.04)
    assert found.low < 2 / 3 < found.high and found.lean_low < 0 < found.lean_high
    same = length_controlled(scores, np.zeros(400), users, resamples=500, seed=0)
    assert same and same.rate == pytest.approx(scores.mean(), abs=1e-4)
    assert same.lean == pytest.approx(0, abs=1e-9)


def test_swapped_sides_give_what_is_left_to_one() -> None:
    scores, differences = judged(7, 60, 0.5, 1.0)
    users = [str(n // 3) for n in range(60)]
    found = length_controlled(scores, differences, users, resamples=300, seed=1)
    swapped = length_controlled(1 - scores, -differences, users, resamples=300, seed=1)
    assert found and swapped
    assert swapped.rate == pytest.approx(1 - found.rate, abs=1e-6)
    assert [swapped.low, swapped.high] == pytest.approx([1 - found.high, 1 - found.low], abs=1e-5)
    assert swapped.lean == pytest.approx(found.lean, abs=1e-6)
    assert found.low < found.rate < found.high


def test_ends_leave_out_as_much_as_students_would() -> None:
    for clusters in (3, 10, 200):
        wide = math.sqrt(clusters / (clusters - 1)) * scipy.stats.t.ppf(0.975, clusters - 1)
        assert length_control._tail(0.95, clusters) == pytest.approx(
            scipy.stats.norm.cdf(-wide), rel=1e-3
        )


@pytest.mark.parametrize(("users", "each"), [(8, 4), (30, 4)])
def test_the_interval_holds_the_rate_at_equal_length(users: int, each: int) -> None:
    rng = np.random.default_rng(11)
    truth, phi, rounds, held = 0.5, 1.0, 100, 0
    labels = [str(n // each) for n in range(users * each)]
    grid = rng.normal(0, 0.7, 4000)  # users differ; the rate at equal length is over all of them
    rate = float(np.mean(1 / (1 + np.exp(-truth - grid))))
    for turn in range(rounds):
        differences = rng.normal(30, 80, users * each)
        own = np.repeat(rng.normal(0, 0.7, users), each)
        logits = truth + own + phi * np.tanh(differences / 80)
        scores = (rng.random(users * each) < 1 / (1 + np.exp(-logits))).astype(float)
        found = length_controlled(scores, differences, labels, resamples=200, seed=turn)
        held += bool(found and found.low <= rate <= found.high)
    assert scipy.stats.binomtest(held, rounds, 0.95).pvalue > 1e-3


def test_what_cannot_be_told_is_not() -> None:
    scores, differences = judged(0, 10, 0.0, 0.0)
    assert length_controlled(scores, differences, ["one"] * 10, seed=0) is None
    for alike in (0.0, 0.5, 1.0):
        names = [str(n) for n in range(10)]
        assert length_controlled(np.full(10, alike), differences, names, seed=0) is None
    with pytest.raises(ValueError, match="one length"):
        length_controlled(scores, differences[:4], ["one"] * 10, seed=0)


def test_weighted_draws_are_whole_clusters() -> None:
    """Twice the same duels under the same names: nothing is learned, and the ends stay."""
    scores, differences = judged(13, 40, 0.3, 0.5)
    users = [str(n // 2) for n in range(40)]
    once = length_controlled(scores, differences, users, resamples=400, seed=2)
    twice = length_controlled(
        np.tile(scores, 2), np.tile(differences, 2), users * 2, resamples=400, seed=2
    )
    assert once and twice
    assert [twice.low, twice.high] == pytest.approx([once.low, once.high], abs=2e-3)
