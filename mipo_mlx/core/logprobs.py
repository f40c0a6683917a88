"""Log-probabilities of tokens and sequences, in nats."""

from __future__ import annotations

import mlx.core as mx
from jaxtyping import Bool, Float, Int


def token_logprobs(
    logits: Float[mx.array, "*b t v"], targets: Int[mx.array, "*b t"]
) -> Float[mx.array, "*b t"]:
    """Log-prob of each target token: ``z_y - logsumexp(z)``, fp32 whatever the dtype of ``logits``.

    Args:
        logits: unnormalised scores before each target.
        targets: token ids below ``v``.
    """
    # in fp32 first: where MLX has no fused kernel it subtracts in the dtype of the logits
    return -mx.fast.cross_entropy(logits.astype(mx.float32), targets)


def sequence_logprobs(
    logprobs: Float[mx.array, "*b t"], mask: Bool[mx.array, "*b t"]
) -> Float[mx.array, "*b"]:
    """Sum of token log-probs where ``mask`` is true, nats; masked values are never read."""
    return mx.where(mask, logprobs.astype(mx.float32), 0.0).sum(axis=-1)
