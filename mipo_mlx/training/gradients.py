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
from mipo_mlx.inference.layer_caches import arrays, growing, new_caches, newest, primed
from mipo_mlx.inference.prefix_tree import Forest, sequence_logprobs
from mipo_mlx.inference.prompt_cache import Held, fill, lengths_of, real_within, unpadded

# log-probs of responses [r] -> the loss, and whatever else is wanted of them
Loss = Callable[[mx.array], tuple[mx.array, dict[str, mx.array]]]
Keys = list[mx.array]  # keys and values [s, heads, columns, d], or states [s, ...], by layer


@dataclass
class Trunk:
    """Prompts that were forwarded by themselves, and the gradient that has reached them.

    Attributes:
        tokens: [s, ls] int32, right-padded.
        lengths: real ones of each [s].
        even: none has padding.
        piece: columns forwarded at once.
        keys: keys and values of all columns and states after the last, not in any graph.
        grows: which of ``keys`` have columns; the others are states.
        states: those at the start of each piece but the first.
        slopes: of the loss to ``keys``, so far.
    """

    tokens: mx.array
    lengths: mx.array
    even: bool
    piece: int
    keys: Keys = field(default_factory=list)
    grows: list[bool] = field(default_factory=list)
    states: dict[int, Keys] = field(default_factory=dict)
    slopes: Keys = field(default_factory=list)

    @property
    def starts(self) -> range:
        return range(0, self.tokens.shape[1], self.piece)

    def before(self, start: int) -> Keys:
        """What is held where a piece starts; nothing at the start of all."""
        if not start:
            return []
        states = iter(self.states[start])
        return [
            array[..., :start, :] if grows else next(states)
            for array, grows in zip(self.keys, self.grows, strict=True)
        ]


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
            held = Held(
                primed(new_caches(model, segmented=recompute), keys), trunk.lengths, trunk.even
            )
        return loss(sequence_logprobs(model, forest, held, budget=budget, recompute=recompute))

    told, (grads, slopes) = _with_parameters(model, whole, keys)
    if trunk:
        trunk.slopes = [a + b for a, b in zip(trunk.slopes, slopes, strict=True)]
    return told, grads


def forward_trunk(model: nn.Module, stems: Sequence[tuple[int, ...]], at_once: int) -> Trunk:
    """Keys and values of what prompts start with, at most ``at_once`` padded tokens at a time."""
    tokens = mx.array(pad_right(stems)[0])
    piece = max(1, at_once // len(stems))
    trunk = Trunk(tokens, lengths_of(stems), unpadded(stems), piece)
    caches = new_caches(model)
    for start in trunk.starts:
        if start:
            both = zip(arrays(caches), growing(caches), strict=True)
            trunk.states[start] = [array for array, grows in both if not grows]
        now = tokens[:, start : start + piece]
        real = real_within(trunk.lengths, start, now.shape[1])
        fill(model, now, caches, real, even=trunk.even)
        mx.eval(arrays(caches))
    trunk.keys, trunk.grows = arrays(caches), growing(caches)
    trunk.slopes = [mx.zeros(array.shape) for array in trunk.keys]
    return trunk


def trunk_gradient(model: nn.Module, trunk: Trunk, *, recompute: bool) -> Any:
    """The gradient to the trainable parameters by way of what has reached a trunk's keys."""
    total: Any = None
    slopes = trunk.slopes
    for start in reversed(trunk.starts):
        tokens = trunk.tokens[:, start : start + trunk.piece]
        stop = start + tokens.shape[1]
        wanted = [
            each[..., start:stop, :] if grows else each
            for each, grows in zip(slopes, trunk.grows, strict=True)
        ]

        def weighed(
            past: Keys, tokens: mx.array = tokens, wanted: Keys = wanted, start: int = start
        ) -> tuple[mx.array, None]:
            caches = new_caches(model, segmented=recompute)
            if start:
                primed(caches, past)
            real = real_within(trunk.lengths, start, tokens.shape[1])
            with recomputed(model, recompute):
                fill(model, tokens, caches, real, even=trunk.even)
            pairs = zip(newest(caches, start), wanted, strict=True)
            return mx.stack([(a.astype(mx.float32) * s).sum() for a, s in pairs]).sum(), None

        _, (grads, back) = _with_parameters(model, weighed, trunk.before(start))
        total = grads if total is None else tree_map(mx.add, total, grads)
        if start:
            each = zip(slopes, back, trunk.grows, strict=True)
            slopes = [s[..., :start, :] + b if grows else b for s, b, grows in each]
        mx.eval(total, slopes)
    trunk.slopes = []
    return total
