"""The gradient of a loss over a forest's log-probs.

A forest without a trunk is one graph, forward and back.

Prompts that several batches go on from, or that are long, can be forwarded by themselves, in
pieces: keys and values are kept, nothing else. Batches then say what gradient reaches these, and
the pieces are made again one at a time, last first, each handing back to those before it. So the
activations of one piece are alive at a time, and a prompt is forwarded for all its batches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mipo_mlx.data.batches import pad_right
from mipo_mlx.inference.checkpointing import recomputed
from mipo_mlx.inference.kv_cache import new_caches, primed
from mipo_mlx.inference.prefix_tree import Forest, sequence_logprobs
from mipo_mlx.inference.prompt_cache import Held, fill, lengths_of

# log-probs of responses [r] -> the loss, and whatever else is wanted of them
Loss = Callable[[mx.array], tuple[mx.array, dict[str, mx.array]]]
Keys = list[mx.array]  # keys and values [s, heads, columns, d] of each layer in turn


@dataclass
class Trunk:
    """Prompts that were forwarded by themselves, and the gradient that has reached them.

    Attributes:
        tokens: [s, ls] int32, right-padded.
        lengths: real ones of each [s].
        piece: columns forwarded at once.
        keys: keys and values of all columns, not in any graph.
        slopes: of the loss to these, so far.
    """

    tokens: mx.array
    lengths: mx.array
    piece: int
    keys: Keys = field(default_factory=list)
    slopes: Keys = field(default_factory=list)

    @property
    def starts(self) -> range:
        return range(0, self.tokens.shape[1], self.piece)


def _with_parameters(
    model: nn.Module, function: Callable[[Keys], Any], keys: Keys
) -> tuple[Any, tuple[Any, Keys]]:
    """What a scalar function of keys tells besides, and its gradients to parameters and keys."""
    before = model.trainable_parameters()

    def traced(parameters: Any, keys: Keys) -> Any:
        model.update(parameters)
        return function(keys)

    try:
        (_, told), grads = mx.value_and_grad(traced, argnums=(0, 1))(before, keys)
    finally:
        model.update(before)
    return told, grads


def loss_gradient(
    model: nn.Module,
    forest: Forest,
    loss: Loss,
    *,
    budget: int,
    recompute: bool,
    trunk: Trunk | None = None,
) -> tuple[dict[str, mx.array], Any]:
    """What the loss tells besides its value, and its gradient to the trainable parameters.

    Args:
        model: in training mode.
        forest: the batch.
        loss: of the summed log-probs of its responses.
        budget: bytes of logits alive at once; 0 makes all of them at once.
        recompute: blocks drop their activations and make them again for the gradient.
        trunk: its stems, already forwarded; the gradient to their keys is added there.
    """
    keys = trunk.keys if trunk else []

    def whole(keys: Keys) -> tuple[mx.array, dict[str, mx.array]]:
        held = None
        if trunk is not None:
            held = Held(primed(new_caches(model, segmented=recompute), keys), trunk.lengths)
        return loss(sequence_logprobs(model, forest, held, budget=budget, recompute=recompute))

    told, (grads, slopes) = _with_parameters(model, whole, keys)
    if trunk:
        trunk.slopes = [a + b for a, b in zip(trunk.slopes, slopes, strict=True)]
    return told, grads


def forward_trunk(model: nn.Module, stems: Sequence[tuple[int, ...]], at_once: int) -> Trunk:
    """Keys and values of what prompts start with, at most ``at_once`` padded tokens at a time."""
    tokens = mx.array(pad_right(stems)[0])
    piece = max(1, at_once // len(stems))
    trunk = Trunk(tokens, lengths_of(stems), piece)
    caches = new_caches(model)
    for start in trunk.starts:
        fill(model, tokens[:, start : start + piece], caches)
        mx.eval([cache.state for cache in caches])
    trunk.keys = [array for cache in caches for array in cache.state]
    trunk.slopes = [mx.zeros(array.shape) for array in trunk.keys]
    return trunk


def trunk_gradient(model: nn.Module, trunk: Trunk, *, recompute: bool) -> Any:
    """The gradient to the trainable parameters by way of what has reached a trunk's keys."""
    total: Any = None
    slopes = trunk.slopes
    for start in reversed(trunk.starts):
        tokens = trunk.tokens[:, start : start + trunk.piece]
        stop = start + tokens.shape[1]
        wanted = [each[..., start:stop, :] for each in slopes]

        def weighed(
            past: Keys, tokens: mx.array = tokens, wanted: Keys = wanted, start: int = start
        ) -> tuple[mx.array, None]:
            caches = primed(new_caches(model, segmented=recompute), past) if start else None
            caches = caches or new_caches(model, segmented=recompute)
            with recomputed(model, recompute):
                fill(model, tokens, caches)
            made = [array for cache in caches for array in cache.state[-2:]]
            new = [array[..., -tokens.shape[1] :, :] for array in made]
            pairs = zip(new, wanted, strict=True)
            return mx.stack([(a.astype(mx.float32) * s).sum() for a, s in pairs]).sum(), None

        past = [array[..., :start, :] for array in trunk.keys] if start else []
        _, (grads, back) = _with_parameters(model, weighed, past)
        total = grads if total is None else tree_map(mx.add, total, grads)
        slopes = [s[..., :start, :] + b for s, b in zip(slopes, back, strict=True)] if start else []
        mx.eval(total, slopes)
    trunk.slopes = []
    return total
