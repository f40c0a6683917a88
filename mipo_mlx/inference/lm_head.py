"""Log-probs of response tokens from hidden states, the vocabulary never held for more than a chunk.

A model's own ``__call__`` is its backbone followed by a head: tied or untied, quantized or not,
with soft caps and scales. ``Parts`` runs the same ``__call__`` with the backbone replaced by known
hidden states, so whatever a model does to its logits is done here too, and is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.inference.cores import PIECE, pieces, spread

Logits = Callable[[mx.array], mx.array]  # hidden states [1, n, d] -> [1, n, v]
Chunk = Callable[[mx.array, mx.array], list[mx.array]]

BUDGET = 256 * 2**20  # bytes of logits alive at once
LAZY_COPIES = 12  # arrays as large as a chunk's logits at once, as measured: MLX runs ahead
EAGER_COPIES = 2  # likewise, a chunk evaluated before the next; half precision has both
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
    """Backbone and head of a model, or None where they cannot be told apart."""
    while not any(callable(getattr(model, name, None)) for name in BACKBONES):
        model = getattr(model, "language_model", None)
        if model is None:
            return None
    return Parts(model, next(n for n in BACKBONES if callable(getattr(model, n, None))))


def chunk_rows(vocabulary: int, budget: int = BUDGET) -> int:
    """Tokens whose logits, and what is made of them, fit a budget of bytes; at least 1."""
    copies = EAGER_COPIES if on_cpu() else LAZY_COPIES
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
    raw = logits(states[None]).squeeze(0)
    shares = mx.softmax(raw.astype(mx.float32), axis=-1)
    off = shares.at[mx.arange(wanted.shape[0]), wanted].add(-1.0)  # of -values, by logit
    return [token_logprobs(raw, wanted), _pulled(logits, states, off.astype(raw.dtype))]


def _pulled(logits: Logits, states: mx.array, off: mx.array) -> mx.array:
    """Minus the gradient to the hidden states, given that to the logits."""
    _, (slope,) = mx.vjp(lambda x: logits(x[None]).squeeze(0), [states], [off])
    return -slope


def chunked_logprobs(
    logits: Logits, hidden: mx.array, targets: mx.array, rows: int, *, slopes: bool = True
) -> mx.array:
    """``log p(target)`` of each hidden state: nats, fp32 [n], differentiable in ``hidden``.

    With ``slopes`` the gradient of a token's log-prob to its hidden state is taken along with the
    log-prob, chunk by chunk, and kept: [n, d] instead of [n, v]. So backward neither holds logits
    nor runs the head a second time, and weights of the head get no gradient: LoRA leaves them
    frozen. Without, all is left to MLX's own differentiation.

    Args:
        logits: [1, n, d] -> [1, n, v].
        hidden: [n, d].
        targets: token ids [n].
        rows: most tokens of a chunk.
        slopes: set for training.
    """
    if not slopes:
        return _in_turn(partial(_values, logits), rows, hidden, targets)[0]

    @mx.custom_function
    def logprobs(states: mx.array, wanted: mx.array) -> list[mx.array]:
        return _in_turn(partial(_slopes, logits), rows, states, wanted)

    @logprobs.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        grad = cotangents[0][:, None] * outputs[1].astype(mx.float32)
        return grad.astype(primals[0].dtype), mx.zeros_like(primals[1])

    found: Any = logprobs(hidden, targets)
    values: mx.array = found[0]
    return values


def slopes_by_numpy(
    logits: Logits, hidden: mx.array, targets: mx.array, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs [n] and their gradients [n, d], fp32, of hidden states that stand in no graph.

    NumPy's ``exp`` is tens of times faster than MLX's on x86, and each chunk is done with before
    the next begins, so the budget is met to the byte. For CPUs.
    """
    chunks = [
        _slopes_by_numpy(logits, hidden[start:end], np.array(targets[start:end]))
        for start, end in _chunks(hidden.shape[0], rows)
    ]
    values, slopes = zip(*chunks, strict=True)
    return np.concatenate(values), np.concatenate(slopes)


def _slopes_by_numpy(
    logits: Logits, states: mx.array, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of one chunk; none of its logits are left when it returns."""
    raw = logits(states[None]).squeeze(0)
    single, kind = raw.astype(mx.float32), raw.dtype
    del raw
    off = np.array(single, copy=False)  # what is put here, MLX reads
    value, total = _exponentials(off, wanted)
    off[np.arange(len(wanted)), wanted] -= total[:, 0]
    slope = _pulled(logits, states, single.astype(kind))
    return value, np.array(slope.astype(mx.float32)) / total


def values_by_numpy(logits: Logits, hidden: mx.array, targets: mx.array, rows: int) -> np.ndarray:
    """The log-probs [n] of ``slopes_by_numpy`` alone."""
    values = []
    for start, end in _chunks(hidden.shape[0], rows):
        raw = logits(hidden[None, start:end]).squeeze(0).astype(mx.float32)
        wanted = np.array(targets[start:end])
        values.append(_exponentials(np.array(raw, copy=False), wanted)[0])
        del raw
    return np.concatenate(values)


def _exponentials(raw: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs [n] and the sum of exponentials [n, 1]; logits [n, v] become these, in place."""
    picked = np.empty((len(wanted), 1), dtype=np.float32)
    total = np.empty_like(picked)

    def work(index: tuple[Any, ...]) -> None:
        rows = index[:1]  # whole rows
        piece = raw[rows]
        np.subtract(piece, piece.max(axis=1, keepdims=True), out=piece)
        picked[rows] = np.take_along_axis(piece, wanted[rows][:, None], axis=1)
        np.exp(piece, out=piece)
        total[rows] = piece.sum(axis=1, keepdims=True)

    spread(work, pieces(raw.shape, max(PIECE, raw.shape[1])))
    return (picked - np.log(total))[:, 0], total
