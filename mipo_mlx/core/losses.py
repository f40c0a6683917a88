"""The losses, unreduced, one value a pair. Log-probs are sums over response tokens, in nats.

Of grids, ``scores[n, a, b]`` is ``log pi(y_b | x_a)``: row a is the prompt, column b the response,
and the diagonal holds the responses under their own prompts.
"""

from __future__ import annotations

import mlx.core as mx
from jaxtyping import Bool, Float

Pairs = Float[mx.array, " p"]
Grids = Float[mx.array, "n m m"]


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
    label_smoothing: float = 0.0,
) -> tuple[Pairs, Pairs, Pairs]:
    """``-log sigmoid(r+ - r-)`` (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    With ``label_smoothing`` e, the chance that the sides of a pair are the wrong way round, it is
    ``-(1 - e) log sigmoid(r+ - r-) - e log sigmoid(r- - r+)`` (Mitchell 2023, "A note on DPO with
    noisy preferences").

    Returns:
        Loss, reward of chosen, reward of rejected, a value a pair each.
    """
    chosen = implicit_rewards(
        policy_logps=policy_chosen_logps, reference_logps=reference_chosen_logps, beta=beta
    )
    rejected = implicit_rewards(
        policy_logps=policy_rejected_logps, reference_logps=reference_rejected_logps, beta=beta
    )
    right, wrong = softplus(rejected - chosen), softplus(chosen - rejected)
    return (1 - label_smoothing) * right + label_smoothing * wrong, chosen, rejected


def ipo_loss(*, chosen_rewards: Pairs, rejected_rewards: Pairs, beta: float) -> Pairs:
    """``(h - 1 / (2 beta))^2`` of the log-ratio difference ``h = (r+ - r-) / beta``.

    Azar et al. 2023 (arXiv 2310.12036, eq. 17), with beta for its tau.
    """
    return mx.square((chosen_rewards - rejected_rewards) / beta - 1 / (2 * beta))


def hinge_loss(*, chosen_rewards: Pairs, rejected_rewards: Pairs) -> Pairs:
    """``max(0, 1 - (r+ - r-))`` (Zhao et al. 2023, arXiv 2305.10425, as a loss on rewards)."""
    return mx.maximum(1 - (chosen_rewards - rejected_rewards), 0.0)


def mipo_softmax_loss(
    *,
    policy_chosen_logps: Pairs,
    policy_rejected_logps: Float[mx.array, "p k"],
    reference_chosen_logps: Pairs,
    reference_rejected_logps: Float[mx.array, "p k"],
    beta: float,
    there: Bool[mx.array, "p k"] | None = None,
) -> Pairs:
    """``logsumexp(r+, r1-, .., rK-) - r+``; at K = 1 it is ``dpo_sigmoid_loss``.

    InfoNCE with K + 1 candidates (van den Oord et al. 2018, arXiv 1807.03748, eq. 4), critic r.
    ``there`` tells real negatives from padding, where pairs have different numbers of them.
    """
    chosen = implicit_rewards(
        policy_logps=policy_chosen_logps, reference_logps=reference_chosen_logps, beta=beta
    )
    rejected = implicit_rewards(
        policy_logps=policy_rejected_logps, reference_logps=reference_rejected_logps, beta=beta
    )
    if there is not None:
        rejected = mx.where(there, rejected, -mx.inf)
    every = mx.concatenate([chosen[:, None], rejected], axis=1)
    return mx.logsumexp(every, axis=1) - chosen


def _diagonal(scores: mx.array, axis: int) -> mx.array:
    """Mean over the diagonal of ``-log softmax`` along ``axis``, [n]."""
    own = mx.diagonal(scores, axis1=1, axis2=2)
    return (mx.logsumexp(scores, axis=axis) - own).mean(axis=1)


def infonce_loss(scores: Grids, *, temperature: float) -> Float[mx.array, " n"]:
    """Which prompt does a response belong to? Softmax over prompts of ``scores / temperature``.

    van den Oord et al. 2018 (arXiv 1807.03748, eq. 4), with summed log-probs as the critic and no
    reference; with two prompts it is the baseline of arXiv 2603.19294.
    """
    return _diagonal(scores.astype(mx.float32) / temperature, axis=1)


def sami_loss(mean_scores: Grids) -> Float[mx.array, " n"]:
    """Half of the softmax loss over responses plus half of that over prompts.

    Franken et al. 2024 (arXiv 2404.14313). ``mean_scores`` are log-probs per token: sums saturate.
    """
    wide = mean_scores.astype(mx.float32)
    return (_diagonal(wide, axis=2) + _diagonal(wide, axis=1)) / 2
