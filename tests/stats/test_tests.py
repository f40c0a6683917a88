"""Exact tests, families and agreement against scipy, statsmodels and hand values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from mipo_mlx.stats.tests import holm, kappa, mcnemar, sign_test


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


@pytest.mark.parametrize("first", range(9))
def test_sign_test_is_the_sum_of_a_coins_tails(first: int) -> None:
    for second in range(13):
        if first + second:
            n, fewer = first + second, min(first, second)
            tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
            assert sign_test(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert sign_test(0, 0) == 1.0


def test_kappa_of_a_known_table() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 0.7 seen, 0.5 by chance
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa(first, first) == pytest.approx(1.0)
    assert math.isnan(kappa(["yes"] * 3, ["yes"] * 3))
