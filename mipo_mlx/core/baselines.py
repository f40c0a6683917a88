"""Losses that MIPO is compared with, over grids of log-probs.

``scores[n, a, b]`` is ``log pi(y_b | x_a)``: row a is the prompt, column b the response, and the
diagonal holds the responses under their own prompts.
"""

from __future__ import annotations

import mlx.core as mx
from jaxtyping import Float

Grids = Float[mx.array, "n m m"]


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
