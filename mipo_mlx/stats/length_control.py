"""Win rates at equal length: logistic regression with whole clusters resampled. numpy float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mipo_mlx.stats.bootstrap import CHUNK
from mipo_mlx.stats.intervals import student_quantile

RIDGE = 0.01  # on both coefficients; holds them where lengths alone decide every duel
STEPS = 100  # most Newton steps; ten are common


@dataclass(frozen=True)
class LengthControlled:
    """A win rate as if both answers were equally long.

    Attributes:
        rate: the win rate at no difference in length.
        low, high: ends of its interval.
        lean: of the length term; positive where longer answers win, 0 where length tells nothing.
        lean_low, lean_high: ends of its interval.
    """

    rate: float
    low: float
    high: float
    lean: float
    lean_low: float
    lean_high: float


def length_term(differences: np.ndarray) -> np.ndarray:
    """``tanh(d / sd(d))`` of the adapter's length less the base's [n]; 0 where both are equal.

    ``sd`` is over all duels, about their mean, with n. Source: arXiv 2404.04475, sec. 3.
    """
    spread = float(np.std(differences))
    wide = np.asarray(differences, float)
    return np.asarray(np.tanh(wide / spread) if spread else np.sign(wide))


def _objective(
    coefficients: np.ndarray, term: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Log-likelihood of each row of ``coefficients`` [r, 2], nats, less the ridge. [r]"""
    logits = coefficients[:, :1] + coefficients[:, 1:] * term
    likelihood = scores * logits - np.logaddexp(0.0, logits)
    ridge = RIDGE / 2 * np.square(coefficients).sum(axis=1)
    return np.asarray((weights * likelihood).sum(axis=1) - ridge)


def _newton(
    coefficients: np.ndarray, term: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Newton's step of each row [r, 2]."""
    rates = 1 / (1 + np.exp(-(coefficients[:, :1] + coefficients[:, 1:] * term)))
    rest, curve = weights * (scores - rates), weights * rates * (1 - rates)
    first = rest.sum(axis=1) - RIDGE * coefficients[:, 0]
    second = rest @ term - RIDGE * coefficients[:, 1]
    a, b, c = curve.sum(axis=1) + RIDGE, curve @ term, curve @ np.square(term) + RIDGE
    determinant = a * c - b * b
    step = np.stack([c * first - b * second, a * second - b * first], axis=1)
    return np.asarray(step / determinant[:, None])


def fit(
    scores: np.ndarray, term: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """``theta`` and ``phi`` of ``P(adapter wins) = sigmoid(theta + phi * term)``, a row a fit.

    Maximum likelihood of the binomial, ties as half a win, less ``RIDGE / 2 (theta^2 + phi^2)``; by
    Newton's steps, halved where they lead downhill.

    Args:
        scores: 1, 0.5 or 0 a duel [n].
        term: of ``length_term`` [n].
        weights: how often each duel counts, a row a fit [r, n].
        start: coefficients to begin with [2].

    Returns:
        [r, 2].
    """
    found = np.tile(np.zeros(2) if start is None else start, (len(weights), 1))
    value = _objective(found, term, scores, weights)
    for _ in range(STEPS):
        step = _newton(found, term, scores, weights)
        better = _objective(found + step, term, scores, weights)
        for _ in range(40):
            worse = better < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
            better = _objective(found + step, term, scores, weights)
        found, value = found + step, better
        if float(np.abs(step).max()) < 1e-6:  # the next one would be its square
            break
    return found


def _tail(level: float, clusters: int) -> float:
    """Share of draws beyond each end: ``Phi(-sqrt(m / (m - 1)) t)``, t of m - 1 degrees.

    So percentiles of few clusters are as wide as Student's interval. Source: Hesterberg 2015, The
    American Statistician 69(4) (expanded percentiles).
    """
    t = student_quantile(level, clusters - 1)
    return NormalDist().cdf(-math.sqrt(clusters / (clusters - 1)) * t)


def length_controlled(
    scores: np.ndarray,
    differences: np.ndarray,
    clusters: Sequence[str],
    *,
    resamples: int = 10_000,
    seed: int,
    level: float = 0.95,
) -> LengthControlled | None:
    """Win rate at equal length, ``sigmoid(theta)``, with an interval by bootstrap of clusters.

    The regression of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475) without its term for how
    hard an instruction is, which takes many models' answers to the same instructions: the mean over
    instructions is then ``sigmoid(theta)`` itself. ``sd`` of the lengths stays that of the sample.

    Args:
        scores: 1 where the adapter won, 0.5 for a tie, 0 where it lost [n].
        differences: length of the adapter's answer less that of the base's [n].
        clusters: a label a duel; clusters are resampled whole.
        resamples: draws.
        seed: of numpy's generator.
        level: coverage, in (0, 1).

    Returns:
        None where nothing can be told: fewer than two clusters, or all duels ended alike.

    Raises:
        ValueError: lengths differ.
    """
    scores = np.asarray(scores, float)
    if not scores.shape == np.shape(differences) == np.shape(clusters) or scores.ndim != 1:
        raise ValueError("scores, differences and clusters must be of one length")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if names.size < 2 or np.all(scores == scores[0]):
        return None
    term = length_term(differences)
    whole = fit(scores, term, np.ones((1, scores.size)))[0]
    rng = np.random.default_rng(seed)
    drawn = []
    step = max(1, CHUNK // scores.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draw = rng.integers(0, names.size, (rows, names.size))
        draw += names.size * np.arange(rows)[:, None]
        counts = np.bincount(draw.ravel(), minlength=rows * names.size).reshape(rows, names.size)
        drawn.append(fit(scores, term, counts[:, index].astype(float), whole))
    tail = _tail(level, names.size)
    ends = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    rate, low, high = (float(1 / (1 + math.exp(-x))) for x in (whole[0], *ends[:, 0]))
    return LengthControlled(rate, low, high, float(whole[1]), float(ends[0, 1]), float(ends[1, 1]))
