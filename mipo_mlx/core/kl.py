"""How far a policy is from its reference, from log-probs of tokens that the policy sampled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def kl_k1(policy: Float[np.ndarray, " t"], reference: Float[np.ndarray, " t"]) -> float:
    """``sum_t log pi(y_t) - log pi_ref(y_t)``, nats: KL(pi || pi_ref) of an answer, one sample.

    Unbiased for answers sampled from ``pi``, but a single one may well be below 0: k1 of
    http://joschu.net/blog/kl-approx.html.
    """
    return float((policy.astype(np.float64) - reference.astype(np.float64)).sum())


def kl_k3(policy: Float[np.ndarray, " t"], reference: Float[np.ndarray, " t"]) -> float:
    """``sum_t (e^d_t - 1 - d_t)``, ``d = log pi_ref(y_t) - log pi(y_t)``, nats; never below 0.

    k3 of http://joschu.net/blog/kl-approx.html, taken token by token: each term has the mean
    ``KL(pi || pi_ref)`` of the next token, and by the chain rule their sum that of the answer.

    Args:
        policy: log-probs of the answer's tokens under ``pi``, which sampled them [t].
        reference: of the same tokens under ``pi_ref`` [t].
    """
    d = reference.astype(np.float64) - policy.astype(np.float64)
    return float((np.expm1(d) - d).sum())
