"""Losses, log-probs and logits by a model's own ``__call__``, one whole sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mipo_mlx.inference.prefix_tree import Row

Flat = dict[str, mx.array]


def told_loss(rows: Sequence[Row]) -> Callable[[mx.array], tuple[mx.array, Flat]]:
    """The loss over K negatives, the first response of a row against the others."""
    count = len(rows[0].responses)

    def loss(logps: mx.array) -> tuple[mx.array, Flat]:
        rewards = 0.1 * logps.reshape(-1, count)
        losses = mx.logsumexp(rewards, axis=1) - rewards[:, 0]
        return losses.sum(), {"losses": losses, "logps": logps}

    return loss


def plainly(model: Any, ids: Sequence[int]) -> mx.array:
    """Logits [t, v] of one sequence, with mlx-lm's own caches, empty ones.

    Without any, layers of Gemma 3n that use others' keys take their own, which were never trained.
    """
    from mlx_lm.models.cache import make_prompt_cache

    logits: mx.array = model(mx.array([list(ids)]), cache=make_prompt_cache(model))[0]
    return logits.astype(mx.float32)


def plain_tokens(model: Any, row: Row, response: Sequence[int]) -> mx.array:
    """Log-probs of response tokens."""
    logits = plainly(model, (*row.prompt_ids, *response[:-1]))[len(row.prompt_ids) - 1 :]
    picked = mx.take_along_axis(logits, mx.array(response)[:, None], axis=-1)[:, 0]
    return picked - mx.logsumexp(logits, axis=-1)


def plain_step(model: Any, rows: Sequence[Row]) -> tuple[mx.array, Flat]:
    """As ``step``."""

    def loss(model: Any) -> tuple[mx.array, Flat]:
        each = [plain_tokens(model, row, ids).sum() for row in rows for ids in row.responses]
        return told_loss(rows)(mx.stack(each))

    model.train()
    (_, told), grads = nn.value_and_grad(model, loss)(model)
    model.eval()
    return told["losses"], dict(tree_flatten(grads))


def plain_scores(model: Any, rows: Sequence[Row]) -> np.ndarray:
    """As ``scores``."""
    each = [plain_tokens(model, row, ids) for row in rows for ids in row.responses]
    return np.array(mx.concatenate(each))


def plain_logits(model: Any, rows: Sequence[Row], drawn: Sequence[Sequence[int]]) -> mx.array:
    """Logits [n, v] from which each token of given answers would be drawn."""
    each = []
    for row, ids in zip(rows, drawn, strict=True):
        logits = plainly(model, (*row.prompt_ids, *ids[:-1]))
        each.append(logits[len(row.prompt_ids) - 1 :])
    return mx.concatenate(each)
