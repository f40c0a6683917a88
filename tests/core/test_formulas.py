"""Formulas against numpy float64, printed vectors and closed forms."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx.core.logprobs import sequence_logprobs, token_logprobs
from mipo_mlx.core.losses import dpo_sigmoid_loss, infonce_loss, mipo_softmax_loss, sami_loss
from mipo_mlx.core.mutual_information import choice_entropy, context_accuracy, plug_in_pmi
from mipo_mlx.stats.bootstrap import paired_bootstrap
from mipo_mlx.stats.intervals import wilson

VECTORS = [
    ((-40, -75), (-40, -75), 0.693147, 0.0, 0.0),
    ((-38, -80), (-40, -75), 0.403186, 0.2, -0.5),
    ((-120.5, -98.25), (-118, -101), 0.989712, -0.25, 0.275),
]


def dpo(policy: mx.array, reference: mx.array, beta: float) -> tuple[mx.array, ...]:
    return dpo_sigmoid_loss(
        policy_chosen_logps=policy[:, 0],
        policy_rejected_logps=policy[:, 1],
        reference_chosen_logps=reference[:, 0],
        reference_rejected_logps=reference[:, 1],
        beta=beta,
    )


@pytest.mark.parametrize(("policy", "reference", "loss", "chosen", "rejected"), VECTORS)
def test_dpo_vectors(
    policy: tuple[float, float],
    reference: tuple[float, float],
    loss: float,
    chosen: float,
    rejected: float,
) -> None:
    got = dpo(mx.array([policy], mx.float32), mx.array([reference], mx.float32), 0.1)
    np.testing.assert_allclose([a.item() for a in got], [loss, chosen, rejected], atol=1e-6)


@pytest.mark.parametrize(("k", "loss"), [(3, 1.142325), (7, 1.857699)])
def test_softmax_vectors(k: int, loss: float) -> None:
    zeros = mx.zeros((1, k))
    rejected = mx.array([[-5.0] + [0.0] * (k - 1)])
    got = mipo_softmax_loss(
        policy_chosen_logps=mx.array([2.0]),
        policy_rejected_logps=rejected,
        reference_chosen_logps=mx.array([0.0]),
        reference_rejected_logps=zeros,
        beta=0.1,
    )
    assert got.item() == pytest.approx(loss, abs=1e-6)
    start = mipo_softmax_loss(
        policy_chosen_logps=mx.array([-9.0]),
        policy_rejected_logps=zeros - 4.0,
        reference_chosen_logps=mx.array([-9.0]),
        reference_rejected_logps=zeros - 4.0,
        beta=0.1,
    )
    assert start.item() == pytest.approx(math.log(k + 1), abs=1e-6)


GRID = [[[-40.0, -75.0], [-58.0, -31.0]]]  # prompt +, -; response +, -


def test_baseline_vectors() -> None:
    assert infonce_loss(mx.array(GRID), temperature=100.0).item() == pytest.approx(
        0.552173, abs=1e-6
    )
    assert sami_loss(mx.array(GRID) / 60).item() == pytest.approx(0.470820, abs=1e-6)


def test_baselines_start_at_log_m_and_fall_as_the_diagonal_grows() -> None:
    for m in (2, 5):
        flat = mx.full((3, m, m), -20.0)
        for loss in (infonce_loss(flat, temperature=7.0), sami_loss(flat)):
            np.testing.assert_allclose(np.array(loss), np.log(m), atol=1e-6)
        assert sami_loss(flat + 50 * mx.eye(m)).max().item() < 1e-6


def test_dpo_gradient_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    policy, reference = rng.normal(-50, 10, (2, 16, 2))
    beta = 0.3
    grad = mx.grad(lambda p: dpo(p, mx.array(reference, mx.float32), beta)[0].sum())(
        mx.array(policy, mx.float32)
    )
    margin = beta * ((policy - reference)[:, 0] - (policy - reference)[:, 1])
    slope = beta / (1 + np.exp(margin))
    np.testing.assert_allclose(np.array(grad), np.stack([-slope, slope], 1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("margin", [-1e4, -1e3, 1e3, 1e4])
def test_dpo_is_finite_at_extremes(margin: float) -> None:
    zero = mx.zeros((1, 2))
    loss, *_ = dpo(mx.array([[margin, 0.0]]), zero, 1.0)
    assert loss.item() == pytest.approx(max(0.0, -margin), rel=1e-6)
    grad = mx.grad(lambda p: dpo(p, zero, 1.0)[0].sum())(mx.array([[margin, 0.0]]))
    assert bool(mx.isfinite(grad).all())


def test_a_table_model_converges_to_the_closed_form() -> None:
    """pi* ~ pi_ref^(1+1/beta) q^(-1/beta), by gradient descent on the exact expected loss."""
    rng = np.random.default_rng(1)
    contexts, answers, beta = 4, 6, 2.0
    reference = rng.dirichlet(np.full(answers, 3.0), contexts)
    marginal = reference.mean(axis=0)
    weights = mx.array(reference[:, :, None] * marginal[None, None, :])
    ref = mx.array(np.log(reference))

    def loss(logits: mx.array) -> mx.array:
        ratio = logits - mx.logsumexp(logits, axis=1, keepdims=True) - ref
        pairs = mx.stack(
            [
                mx.broadcast_to(ratio[:, :, None], weights.shape).reshape(-1),
                mx.broadcast_to(ratio[:, None, :], weights.shape).reshape(-1),
            ],
            axis=1,
        )
        return (dpo(pairs, mx.zeros_like(pairs), beta)[0] * weights.reshape(-1)).sum()

    logits = ref
    slope = mx.grad(loss)
    for _ in range(4000):
        logits = logits - 4.0 * slope(logits)
        mx.eval(logits)
    got = np.array(mx.softmax(logits, axis=1))
    target = reference ** (1 + 1 / beta) * marginal ** (-1 / beta)
    target /= target.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, target, atol=1e-3)
    assert np.abs(target - reference).max() > 0.02


def test_token_logprobs_against_float64() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 5, (3, 4, 11))
    targets = rng.integers(0, 11, (3, 4))
    full = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = np.take_along_axis(full, targets[..., None], -1)[..., 0]
    got = token_logprobs(mx.array(logits, mx.float32), mx.array(targets))
    np.testing.assert_allclose(np.array(got), want, atol=1e-5)
    mask = rng.random((3, 4)) < 0.5
    summed = sequence_logprobs(mx.where(mx.array(mask), got, mx.nan), mx.array(mask))
    np.testing.assert_allclose(np.array(summed), (want * mask).sum(1), atol=1e-5)


def test_pmi_against_float64_and_its_cap() -> None:
    rng = np.random.default_rng(3)
    logps = rng.normal(-60, 5, (20, 8))
    own = rng.integers(0, 8, 20)
    right = logps[np.arange(20), own]
    want = right - (np.log(np.exp(logps - logps.max(1, keepdims=True)).mean(1)) + logps.max(1))
    got = np.array(plug_in_pmi(mx.array(logps, mx.float32), mx.array(own)))
    np.testing.assert_allclose(got, want, atol=1e-4)
    far = plug_in_pmi(mx.array([[0.0, -1e4, -1e4]]), mx.array([0]))
    assert far.item() == pytest.approx(math.log(3), abs=1e-6)
    hits = np.array(context_accuracy(mx.array(logps, mx.float32), mx.array(own)))
    np.testing.assert_array_equal(hits, logps.argmax(1) == own)
    assert context_accuracy(mx.array([[1.0, 1.0]]), mx.array([0])).item() == 0.0


def test_choice_entropy_of_known_distributions() -> None:
    got = choice_entropy(mx.array([[0.0, 0.0, 0.0, 0.0], [0.0, -1e4, -1e4, -1e4]]))
    np.testing.assert_allclose(np.array(got), [math.log(4), 0.0], atol=1e-6)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(0, 1, 4000)
    adapter = base + rng.normal(0.1, 1, 4000)
    got = paired_bootstrap(base, adapter, seed=0)
    half = 1.96 * (adapter - base).std() / math.sqrt(4000)
    assert got.delta == pytest.approx((adapter - base).mean())
    assert got.low == pytest.approx(got.delta - half, abs=0.1 * half)
    assert got.high == pytest.approx(got.delta + half, abs=0.1 * half)
    assert got == paired_bootstrap(base, adapter, seed=0)


def test_bootstrap_of_clusters_is_as_wide_as_that_of_their_means() -> None:
    rng = np.random.default_rng(5)
    effect = rng.normal(0, 1, 50)
    items = np.repeat(effect, 20)
    labels = [str(index) for index in np.repeat(np.arange(50), 20)]
    clustered = paired_bootstrap(np.zeros(1000), items, clusters=labels, seed=0)
    means = paired_bootstrap(np.zeros(50), effect, seed=0)
    naive = paired_bootstrap(np.zeros(1000), items, seed=0)
    width = clustered.high - clustered.low
    assert width == pytest.approx(means.high - means.low, rel=0.05)
    assert width > 3 * (naive.high - naive.low)


def test_bootstrap_covers_the_truth() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for seed in range(300):
        difference = rng.normal(0.2, 1.0, 60)
        got = paired_bootstrap(np.zeros(60), difference, resamples=500, seed=seed)
        covered += got.low <= 0.2 <= got.high
    assert 0.90 <= covered / 300 <= 0.98


def test_bootstrap_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="one length"):
        paired_bootstrap(np.zeros(3), np.zeros(4), seed=0)


def test_wilson_by_hand() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.49016, 0.94331), abs=1e-4)
