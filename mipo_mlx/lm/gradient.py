"""The gradient of a loss over a forest's log-probs.

On a GPU the whole is one lazy graph. On a CPU the step is taken in two halves: blocks up to the
hidden states; then, outside of any graph, logits, loss and the gradient to the hidden states, chunk
by chunk; then back through the blocks. The backward graph is built before that gradient is known,
with room for it, which is filled in between the halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mipo_mlx.lm import head
from mipo_mlx.lm.forest import Forest, response_states, sequence_logprobs, targets_of

# log-probs of responses [r] -> the loss, and whatever else is wanted of them
Loss = Callable[[mx.array], tuple[mx.array, dict[str, mx.array]]]


def loss_gradient(
    model: nn.Module, forest: Forest, loss: Loss, *, budget: int, recompute: bool
) -> tuple[dict[str, mx.array], Any]:
    """What the loss tells besides its value, and its gradient to the trainable parameters.

    Args:
        model: in training mode.
        forest: the batch.
        loss: of the summed log-probs of its responses.
        budget: bytes of logits alive at once; 0 makes all of them at once.
        recompute: blocks drop their activations and make them again for the gradient.
    """
    parts = head.parts(model) if budget else None
    if parts is not None and head.on_cpu():
        return _in_halves(parts, model, forest, loss, budget, recompute)

    def whole(model: nn.Module) -> tuple[mx.array, dict[str, mx.array]]:
        return loss(sequence_logprobs(model, forest, budget=budget, recompute=recompute))

    (_, told), grads = nn.value_and_grad(model, whole)(model)
    return told, grads


def _in_halves(
    parts: head.Parts, model: nn.Module, forest: Forest, loss: Loss, budget: int, recompute: bool
) -> tuple[dict[str, mx.array], Any]:
    room: list[mx.array] = []

    def weighed(model: nn.Module) -> tuple[mx.array, mx.array]:
        """Hidden states times what is not known yet: the gradient of the loss to them."""
        hidden = response_states(parts, model, forest, recompute=recompute)
        room.append(mx.zeros(hidden.shape))
        mx.eval(room)
        return (hidden.astype(mx.float32) * room[0]).sum(), hidden

    (_, hidden), grads = nn.value_and_grad(model, weighed)(model)
    mx.eval(hidden)
    rows = head.chunk_rows(parts.vocabulary(hidden), budget)
    values, slopes = head.slopes_by_numpy(parts.logits, hidden, targets_of(forest), rows)
    responses, width = forest.responses.shape
    owner = np.array(forest.real) // width
    sums = np.zeros(responses, dtype=np.float32)
    np.add.at(sums, owner, values)
    (_, told), weight = mx.value_and_grad(loss)(mx.array(sums))
    slopes *= np.array(weight)[owner][:, None]
    np.array(room[0], copy=False)[:] = slopes  # a view: the backward pass reads it from here
    return told, grads
