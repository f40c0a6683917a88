"""KL estimators and the Vendi score: exact sums over a table model, closed forms, by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mipo_mlx.core.kl import kl_k1, kl_k3
from mipo_mlx.stats.vendi import vendi


def test_estimators_by_hand() -> None:
    policy, reference = np.log([0.5, 0.25]), np.log([0.25, 0.5])
    assert kl_k1(policy, reference) == pytest.approx(0)
    # ratios 1/2 and 2: 1/2 - 1 + ln 2, and 2 - 1 - ln 2
    assert kl_k3(policy, reference) == pytest.approx(0.5)
    assert kl_k1(policy[:1], reference[:1]) == pytest.approx(math.log(2))
    assert kl_k3(policy, policy) == 0


def test_both_have_the_mean_of_the_exact_kl_of_whole_answers() -> None:
    """All answers of three tokens out of four, under two models with memory of what came before."""
    rng = np.random.default_rng(8)
    tables = rng.dirichlet(np.ones(4), size=(2, 21))  # a model, a prefix

    def logps(model: int, answer: tuple[int, ...]) -> np.ndarray:
        prefixes = [answer[:t] for t in range(len(answer))]
        places = [sum(4**n for n in range(len(p))) + _number(p) for p in prefixes]
        rows = zip(places, answer, strict=True)
        return np.log([tables[model, place, token] for place, token in rows])

    kl = k1 = k3 = total = 0.0
    for answer in itertools.product(range(4), repeat=3):
        ours, theirs = logps(0, answer), logps(1, answer)
        weight = math.exp(ours.sum())
        total += weight
        kl += weight * (ours.sum() - theirs.sum())
        k1 += weight * kl_k1(ours, theirs)
        k3 += weight * kl_k3(ours, theirs)
        assert kl_k3(ours, theirs) >= 0
    assert total == pytest.approx(1)
    assert kl > 0.1
    assert k1 == pytest.approx(kl)
    assert k3 == pytest.approx(kl)


def _number(digits: tuple[int, ...]) -> int:
    return sum(digit * 4**at for at, digit in enumerate(digits))


def test_small_differences_keep_their_digits() -> None:
    policy = np.full(3, -2.0)
    assert kl_k3(policy, policy + 1e-7) == pytest.approx(3 * 0.5e-14, rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_vendi_of_equal_and_of_orthogonal_sets(n: int) -> None:
    assert vendi(np.ones((n, n))) == pytest.approx(1)
    assert vendi(np.eye(n)) == pytest.approx(n)


def test_vendi_of_two_and_of_blocks() -> None:
    for likeness in (0.0, 0.3, 0.9):
        shares = [(1 + likeness) / 2, (1 - likeness) / 2]
        entropy = -sum(share * math.log(share) for share in shares)
        found = vendi(np.array([[1, likeness], [likeness, 1]]))
        assert found == pytest.approx(math.exp(entropy))
    blocks = np.kron(np.eye(3), np.ones((4, 4)))  # twelve texts of three kinds
    assert vendi(blocks) == pytest.approx(3)
