"""How much an answer tells of the condition it was written under."""

from __future__ import annotations

import math

import mlx.core as mx
from jaxtyping import Float, Int


def plug_in_pmi(logps: Float[mx.array, "n m"], own: Int[mx.array, " n"]) -> Float[mx.array, " n"]:
    """``log p(y|c) - [logsumexp_m log p(y|c_m) - log M]``, nats, at most log M.

    Args:
        logps: log-prob of answer ``n`` under each of ``m`` conditions, its own among them.
        own: column of the right condition.
    """
    wide = logps.astype(mx.float32)
    right = mx.take_along_axis(wide, own[:, None], axis=1)[:, 0]
    return right - mx.logsumexp(wide, axis=1) + math.log(logps.shape[1])


def context_accuracy(
    logps: Float[mx.array, "n m"], own: Int[mx.array, " n"]
) -> Float[mx.array, " n"]:
    """1 where the right condition is the likeliest and no other is as likely, else 0."""
    right = mx.take_along_axis(logps, own[:, None], axis=1)
    return ((logps >= right).sum(axis=1) == 1).astype(mx.float32)


def choice_entropy(logps: Float[mx.array, "n c"]) -> Float[mx.array, " n"]:
    """Entropy of the choices after renormalising their log-probs, nats, 0 to log c."""
    wide = logps.astype(mx.float32)
    normal = wide - mx.logsumexp(wide, axis=1, keepdims=True)
    return -(mx.exp(normal) * normal).sum(axis=1)
