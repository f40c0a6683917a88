"""Log-probs of response tokens from hidden states, the vocabulary never held for more than a chunk.

A model's own ``__call__`` is its backbone followed by a head: tied or untied, quantized or not,
with soft caps and scales. ``Parts`` runs the same ``__call__`` with the backbone replaced by known
hidden states, so whatever a model does to its logits is done here too, and is differentiated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mipo_mlx.core.logprobs import token_logprobs

Logits = Callable[[mx.array], mx.array]  # hidden states [1, n, d] -> [1, n, v]
Chunk = Callable[[mx.array, mx.array], list[mx.array]]

BUDGET = 256 * 2**20  # bytes of logits alive at once
LAZY_COPIES = 12  # arrays as large as a chunk's logits at once, as measured: MLX runs ahead
EAGER_COPIES = 3  # likewise, a chunk evaluated before the next
BACKBONES = ("model", "transformer", "backbone")


class _With:
    """A model in all but its backbone: what its ``__call__`` reads as ``self``."""

    def __init__(self, model: Any, name: str, backbone: Any) -> None:
        self._model, self._name, self._backbone = model, name, backbone

    def __getattr__(self, name: str) -> Any:
        return self._backbone if name == self._name else getattr(self._model, name)


class _Known:
    """A backbone that has run already."""

    def __init__(self, backbone: Any, hidden: mx.array) -> None:
        self._backbone, self._hidden = backbone, hidden

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return self._hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)


@dataclass(frozen=True)
class Parts:
    """A language model as a backbone, to hidden states, and a head, to logits.

    Attributes:
        model: whose ``__call__`` joins them.
        name: of the backbone among its attributes.
    """

    model: Any
    name: str

    def hidden(self, tokens: mx.array, cache: Any) -> mx.array:
        """Hidden states [b, t, d] of tokens [b, t]."""
        hidden: mx.array = getattr(self.model, self.name)(tokens, cache=cache)
        return hidden

    def vocabulary(self, hidden: mx.array) -> int:
        """Tokens that the head knows, told from hidden states [n, d]; nothing is computed."""
        return int(self.logits(hidden[None, :1]).shape[-1])

    def logits(self, hidden: mx.array) -> mx.array:
        """Logits [b, t, v] of hidden states [b, t, d]."""
        known = _Known(getattr(self.model, self.name), hidden)
        tokens = mx.zeros(hidden.shape[:2], dtype=mx.int32)
        logits: mx.array = type(self.model).__call__(_With(self.model, self.name, known), tokens)
        return logits


def parts(model: Any) -> Parts | None:
    """Backbone and head of a model, or None where they cannot be told apart.

    The module taken is the outermost that owns a backbone: one that only passes an inner module's
    on, as a property, need not use it in its own ``__call__``.
    """
    while isinstance(model, nn.Module):
        for name in BACKBONES:
            if name in model and _takes_tokens(model[name]):
                return Parts(model, name)
        model = model.get("language_model")
    return None


def _takes_tokens(backbone: Any) -> bool:
    """Whether it can be called with tokens and caches, and nothing else."""
    if not callable(backbone):
        return False
    try:
        inspect.signature(backbone).bind(None, cache=None)
    except (TypeError, ValueError):
        return False
    return True


def chunk_rows(vocabulary: int, budget: int = BUDGET, *, eager: bool = False) -> int:
    """Tokens whose logits, and what is made of them, fit a budget of bytes; at least 1."""
    copies = EAGER_COPIES if eager else LAZY_COPIES
    return max(1, budget // (4 * copies * vocabulary))


def on_cpu() -> bool:
    return mx.default_device() == mx.Device(mx.cpu)


def _chunks(count: int, rows: int) -> list[tuple[int, int]]:
    pieces = -(-count // rows)
    size = -(-count // pieces)  # even pieces
    return [(start, min(count, start + size)) for start in range(0, count, size)]


def _in_turn(function: Chunk, rows: int, states: mx.array, wanted: mx.array) -> list[mx.array]:
    """``function`` of slices, joined; a slice waits for the one before it."""
    made: list[list[mx.array]] = []
    for start, end in _chunks(states.shape[0], rows):
        part = states[start:end]
        if made:
            part = mx.depends(part, made[-1])
        made.append(function(part, wanted[start:end]))
    return [mx.concatenate(list(column)) for column in zip(*made, strict=True)]


def _values(logits: Logits, states: mx.array, wanted: mx.array) -> list[mx.array]:
    """Log-probs [n] of a chunk."""
    return [token_logprobs(logits(states[None]).squeeze(0), wanted)]


def _slopes(logits: Logits, states: mx.array, wanted: mx.array) -> list[mx.array]:
    """Log-probs [n] of a chunk, and their gradients [n, d] to its hidden states."""

    def values(states: mx.array) -> mx.array:
        return _values(logits, states, wanted)[0]

    made, slopes = mx.vjp(values, [states], [mx.ones(wanted.shape)])
    return [made[0], slopes[0]]


def _eager_values(logits: Logits, states: mx.array, wanted: mx.array) -> list[mx.array]:
    """``_values``, evaluated."""
    raw = logits(states[None]).squeeze(0).astype(mx.float32)
    return [mx.array(_softmax(raw, wanted)[0])]


def _eager_slopes(logits: Logits, states: mx.array, wanted: mx.array) -> list[mx.array]:
    """``_slopes``, evaluated."""

    def raw(states: mx.array) -> mx.array:
        return logits(states[None]).squeeze(0).astype(mx.float32)

    values, off = _softmax(raw(states), wanted)
    off[np.arange(len(off)), np.array(wanted)] -= 1.0  # of -values, by logit
    _, (slope,) = mx.vjp(raw, [states], [mx.array(off)])
    mx.eval(slope)
    return [mx.array(values), -slope]


def _softmax(logits: mx.array, wanted: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs [n] of wanted tokens and softmax [n, v] by NumPy, from fp32 logits, which are read.

    On x86 NumPy takes about 1 ns for an exponential, MLX 25.
    """
    known = np.array(logits, copy=False)
    shares = known - known.max(axis=1, keepdims=True)
    picked = shares[np.arange(len(shares)), np.array(wanted)]
    total = np.exp(shares, out=shares).sum(axis=1, keepdims=True)
    shares /= total
    return picked - np.log(total[:, 0]), shares


def _one_by_one(function: Chunk, rows: int, states: mx.array, wanted: mx.array) -> list[mx.array]:
    """``function``, which evaluates, of slices that stand in no graph; joined."""
    alone = mx.array(np.array(states.astype(mx.float32))).astype(states.dtype)
    made = [function(alone[a:b], wanted[a:b]) for a, b in _chunks(alone.shape[0], rows)]
    return [mx.concatenate(list(column)) for column in zip(*made, strict=True)]


def chunked_logprobs(
    logits: Logits,
    hidden: mx.array,
    targets: mx.array,
    rows: int,
    *,
    slopes: bool = True,
    eager: bool = False,
) -> mx.array:
    """``log p(target)`` of each hidden state: nats, fp32 [n], differentiable in ``hidden``.

    With ``slopes`` the gradient of a token's log-prob to its hidden state is taken along with the
    log-prob, chunk by chunk, and kept: [n, d] instead of [n, v]. So backward neither holds logits
    nor runs the head a second time, and weights of the head get no gradient: LoRA leaves them
    frozen. Without, a gradient runs the head again.

    Args:
        logits: [1, n, d] -> [1, n, v].
        hidden: [n, d].
        targets: token ids [n].
        rows: most tokens of a chunk.
        slopes: set for training.
        eager: hidden states are evaluated here and softmax is NumPy's, for CPUs. Inside a gradient
            all that led to them is then kept until the backward graph is built.
    """
    if not slopes and not eager:
        return _in_turn(partial(_values, logits), rows, hidden, targets)[0]

    def both(states: mx.array, wanted: mx.array) -> list[mx.array]:
        if eager:
            return _one_by_one(partial(_eager_slopes, logits), rows, states, wanted)
        return _in_turn(partial(_slopes, logits), rows, states, wanted)

    @mx.custom_function
    def logprobs(states: mx.array, wanted: mx.array) -> list[mx.array]:
        if slopes:
            return both(states, wanted)
        return _one_by_one(partial(_eager_values, logits), rows, states, wanted)

    @logprobs.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        kept = outputs[1] if slopes else both(*primals)[1]
        grad = cotangents[0][:, None] * kept.astype(mx.float32)
        return grad.astype(primals[0].dtype), mx.zeros_like(primals[1])

    found: Any = logprobs(hidden, targets)
    values: mx.array = found[0]
    return values
