"""The losses, unreduced, one value a pair. Log-probs are sums over response tokens, in nats."""

from __future__ import annotations

import mlx.core as mx
from jaxtyping import Float

Pairs = Float[mx.array, " p"]


def softplus(x: Float[mx.array, "*s"]) -> Float[mx.array, "*s"]:
    """``log(1 + exp(x))``, finite for every finite ``x``."""
    return mx.logaddexp(x, mx.zeros_like(x))


def implicit_rewards(*, policy_logps: mx.array, reference_logps: mx.array, beta: float) -> mx.array:
    """``beta * (log pi_theta - log pi_ref)``, fp32 (arXiv 2305.18290, eq. 5)."""
    return beta * (policy_logps.astype(mx.float32) - reference_logps.astype(mx.float32))


def dpo_sigmoid_loss(
    *,
    policy_chosen_logps: Pairs,
    policy_rejected_logps: Pairs,
    reference_chosen_logps: Pairs,
    reference_rejected_logps: Pairs,
    beta: float,
) -> tuple[Pairs, Pairs, Pairs]:
    """``-log sigmoid(r+ - r-)`` (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    Returns:
        Loss, reward of chosen, reward of rejected, a value a pair each.
    """
    chosen = implicit_rewards(
        policy_logps=policy_chosen_logps, reference_logps=reference_chosen_logps, beta=beta
    )
    rejected = implicit_rewards(
        policy_logps=policy_rejected_logps, reference_logps=reference_rejected_logps, beta=beta
    )
    return softplus(rejected - chosen), chosen, rejected


def mipo_softmax_loss(
    *,
    policy_chosen_logps: Pairs,
    policy_rejected_logps: Float[mx.array, "p k"],
    reference_chosen_logps: Pairs,
    reference_rejected_logps: Float[mx.array, "p k"],
    beta: float,
) -> Pairs:
    """``logsumexp(r+, r1-, .., rK-) - r+``; at K = 1 it is ``dpo_sigmoid_loss``.

    InfoNCE with K + 1 candidates (van den Oord et al. 2018, arXiv 1807.03748, eq. 4), critic r.
    """
    chosen = implicit_rewards(
        policy_logps=policy_chosen_logps, reference_logps=reference_chosen_logps, beta=beta
    )
    rejected = implicit_rewards(
        policy_logps=policy_rejected_logps, reference_logps=reference_rejected_logps, beta=beta
    )
    every = mx.concatenate([chosen[:, None], rejected], axis=1)
    return mx.logsumexp(every, axis=1) - chosen
