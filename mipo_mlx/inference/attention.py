"""Attention on a CPU: MLX's products, NumPy's exponentials, and shared keys read where they lie.

On a CPU MLX 0.32 takes 25 ns for an exponential, NumPy about 1, and most of a step over long
prompts goes there. And where many rows go on from one prompt, copying its keys to each of them
costs as much again, forward and back. So scores are made part by part, one product for all rows of
a prompt, and only softmax knows that a row's parts belong together.

Values are needed at once, so this is for eager code; inside a gradient MLX then keeps what it would
else have dropped on the way, until the graph is built.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.inference.cores import pieces, spread

CHUNK_BYTES = 1 << 23  # of scores at once, for inference
_OUT = np.float32(-3e38)  # the score of what may not be seen


@dataclass(frozen=True)
class Part:
    """Consecutive columns of keys [n, g, s, d] and values [n, g, s, e], and who reads them.

    Attributes:
        keys, values: n divides the number of rows.
        rows: [b] int32, which of the n each row reads; None: its own, and n is b.
    """

    keys: mx.array
    values: mx.array
    rows: mx.array | None = None

    def regular(self, b: int) -> Part:
        """The same, read by ``b // n`` consecutive rows each; copied to every row if need be."""
        if self.rows is None:
            return self
        n = self.keys.shape[0]
        rows = np.array(self.rows)
        if b % n == 0 and np.array_equal(rows, np.repeat(np.arange(n), b // n)):
            return Part(self.keys, self.values)
        return Part(self.keys[self.rows], self.values[self.rows])


class _Seen(threading.local):
    """The mask that a thread met last, and what it hides of each part: layers share masks."""

    mask: Any = None
    key: Any = None
    hidden: Sequence[np.ndarray | None] = ()


_seen = _Seen()


def forget() -> None:
    """Let go of the mask that this thread met last."""
    _seen.mask, _seen.key, _seen.hidden = None, None, ()


def _visible(mask: Any, rows: int, columns: int) -> np.ndarray | None:
    """A mask as booleans [b or 1, h or 1, rows, columns], or None where all is seen."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return np.tri(rows, columns, columns - rows, dtype=bool)[None, None]
    found = np.array(mask, copy=False)
    return found.reshape((1,) * (4 - found.ndim) + found.shape)


class _Fold:
    """Rows [b, h, l, ...] as a part's products want them: [n, g, h/g * b/n * l, ...]."""

    def __init__(self, shape: Sequence[int], n: int, groups: int) -> None:
        b, heads, rows = shape[:3]
        self.whole = (b, heads, rows)
        self.split = (n, b // n, groups, heads // groups, rows)
        self.folded = (n, groups, heads // groups * (b // n) * rows)

    @property
    def axes(self) -> tuple[int, ...]:
        """Sizes of the folded rows, unjoined: [n, g, h/g, b/n, l]."""
        n, times, groups, each, rows = self.split
        return n, groups, each, times, rows

    def fold(self, array: Any) -> Any:
        """[b, h, l, x] -> [n, g, h/g * b/n * l, x]."""
        width = array.shape[3]
        split = array.reshape(*self.split, width).transpose(0, 2, 3, 1, 4, 5)
        return split.reshape(*self.folded, width)

    def back(self, array: Any) -> Any:
        """The way back."""
        width = array.shape[-1]
        split = array.reshape(*self.axes, width).transpose(0, 3, 1, 2, 4, 5)
        return split.reshape(*self.whole, width)

    def mask(self, hidden: np.ndarray) -> np.ndarray:
        """[b or 1, h or 1, l, s] -> what broadcasts to [n, g, h/g, b/n, l, s]."""
        n, times, groups, each, rows = self.split
        b, heads = hidden.shape[:2]
        first = (n, times) if b > 1 else (1, 1)
        second = (groups, each) if heads > 1 else (1, 1)
        return hidden.reshape(*first, *second, rows, -1).transpose(0, 2, 3, 1, 4, 5)


def _soften(scores: np.ndarray, hidden: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores [..., s] become ``exp(score - max)`` in place; maxima and sums [..., 1].

    A row of which all is hidden has the maximum ``_OUT``, and any sum.
    """
    tops = np.empty((*scores.shape[:-1], 1), dtype=np.float32)
    sums = np.empty_like(tops)

    def work(index: tuple[Any, ...]) -> None:
        piece = scores[index]
        if hidden is not None:
            mine = tuple(
                each if length > 1 else slice(None)
                for each, length in zip(index, hidden.shape, strict=False)
            )
            np.copyto(piece, _OUT, where=hidden[mine])
        top = piece.max(axis=-1, keepdims=True)
        np.subtract(piece, top, out=piece)
        np.exp(piece, out=piece)
        tops[index], sums[index] = top, piece.sum(axis=-1, keepdims=True)

    spread(work, pieces(scores.shape))
    return tops, sums


@dataclass(frozen=True)
class _Weights:
    """Of one part: ``exp(score - max of the part)``, folded, and what makes shares of them.

    Attributes:
        array: [n, g, ..., s].
        share: [b, h, l, 1], over all parts.
        fold: of rows.
    """

    array: mx.array
    share: mx.array
    fold: _Fold


def _weigh(
    queries: mx.array, keys: Sequence[mx.array], hidden: Sequence[np.ndarray | None]
) -> list[_Weights]:
    """Softmax of ``q k^T`` over all parts."""
    folds = [_Fold(queries.shape, each.shape[0], each.shape[1]) for each in keys]
    scores = [fold.fold(queries) @ k.swapaxes(-1, -2) for fold, k in zip(folds, keys, strict=True)]
    mx.eval(scores)
    tops, sums = [], []
    for each, fold, mask in zip(scores, folds, hidden, strict=True):
        view = np.array(each, copy=False).reshape(*fold.axes, -1)  # what is put here, MLX reads
        found = _soften(view, None if mask is None else fold.mask(mask))
        tops.append(fold.back(found[0]))
        sums.append(fold.back(found[1]))
    scales = [np.exp(top - np.maximum.reduce(tops)) for top in tops]
    total = sum(scale * each for scale, each in zip(scales, sums, strict=True))
    return [
        _Weights(mx.stop_gradient(array), mx.array(scale / total), fold)
        for array, scale, fold in zip(scores, scales, folds, strict=True)
    ]


def _summed(weights: Sequence[_Weights], values: Sequence[mx.array]) -> mx.array:
    """Values weighed [b, h, l, e]."""
    sums = [w.fold.back(w.array @ v) * w.share for w, v in zip(weights, values, strict=True)]
    total: mx.array = sum(sums[1:], sums[0])
    return total


def _blocked(mask: Any, rows: int, parts: Sequence[Part]) -> Sequence[np.ndarray | None]:
    """What each part's columns hide [b or 1, h or 1, rows, s], None where nothing; kept by mask."""
    widths = tuple(part.keys.shape[2] for part in parts)
    key = (mask if isinstance(mask, str) else id(mask), rows, widths)
    if _seen.key == key:
        return _seen.hidden
    seen = _visible(mask, rows, sum(widths))
    made: list[np.ndarray | None] = [None] * len(parts)
    if seen is not None:
        ends = np.cumsum(widths)
        slices = [seen[..., end - width : end] for width, end in zip(widths, ends, strict=True)]
        made = [None if piece.all() else ~piece for piece in slices]
    _seen.mask, _seen.key, _seen.hidden = mask, key, made  # held, so that its id stays its own
    return made


def _range(hidden: np.ndarray | None, width: int) -> slice:
    """From the first to past the last column that any row may see."""
    if hidden is None:
        return slice(0, width)
    seen = np.flatnonzero(~hidden.reshape(-1, width).all(axis=0))
    return slice(int(seen[0]), int(seen[-1]) + 1) if seen.size else slice(0, 1)


def attend(queries: mx.array, parts: Sequence[Part], *, scale: float, mask: Any) -> mx.array:
    """``softmax(scale q k^T) v`` over all parts in turn, in fp32, in chunks of rows, no gradient.

    Args:
        queries: [b, h, l, d].
        parts: of keys and values; their heads g divide h.
        scale: of the scores.
        mask: None, "causal" (the last row sees all), or booleans that broadcast to [b, h, l, s]. A
            row that sees nothing is not defined.

    Returns:
        [b, h, l, e].
    """
    b, heads, rows, _ = queries.shape
    hidden = _blocked(mask, rows, parts)
    regular = [part.regular(b) for part in parts]
    columns = sum(part.keys.shape[2] for part in parts)
    width = max(1, CHUNK_BYTES // (4 * b * heads * columns))
    made = []
    for start in range(0, rows, width):
        piece = slice(start, min(rows, start + width))
        blocked = [None if each is None else each[..., piece, :] for each in hidden]
        spans = [_range(h, p.keys.shape[2]) for h, p in zip(blocked, regular, strict=True)]
        weights = _weigh(
            queries[:, :, piece] * scale,
            [part.keys[:, :, span] for part, span in zip(regular, spans, strict=True)],
            [None if h is None else h[..., span] for h, span in zip(blocked, spans, strict=True)],
        )
        made.append(
            _summed(weights, [p.values[:, :, s] for p, s in zip(regular, spans, strict=True)])
        )
        mx.eval(made)
    return made[0] if len(made) == 1 else mx.concatenate(made, axis=2)


def attend_and_back(
    queries: mx.array, parts: Sequence[Part], *, scale: float, mask: Any
) -> mx.array:
    """``attend`` in one piece, differentiable in queries, keys and values."""
    b, _, rows, _ = queries.shape
    hidden = _blocked(mask, rows, parts)
    regular = [part.regular(b) for part in parts]
    kept: list[_Weights] = []

    def forward(queries: mx.array, *arrays: mx.array) -> mx.array:
        kept[:] = _weigh(queries * scale, arrays[::2], hidden)
        return _summed(kept, arrays[1::2])

    core: Any = mx.custom_function(forward)

    def backward(primals: Any, slope: mx.array, out: mx.array) -> list[mx.array]:
        queries, *arrays = primals
        # of scores: share * weight * (slope v^T - slope . out); the second term rides along as one
        # more column, and shares go with the slope, for weights are by far the largest
        wide = mx.concatenate([slope, -(slope * out).sum(axis=-1, keepdims=True)], axis=-1)
        scaled = queries * scale
        into, made = mx.zeros_like(queries), []
        for weights, k, v in zip(kept, arrays[::2], arrays[1::2], strict=True):
            fold, array = weights.fold, weights.array
            mine = fold.fold(wide * weights.share)
            ones = mx.ones((*v.shape[:-1], 1))
            d = array * (mine @ mx.concatenate([v, ones], axis=-1).swapaxes(-1, -2))
            into = into + fold.back(d @ k)
            made.append(d.swapaxes(-1, -2) @ fold.fold(scaled))
            made.append(array.swapaxes(-1, -2) @ mine[..., :-1])
        return [into * scale, *made]

    core.vjp(backward)
    found: mx.array = core(queries, *[a for part in regular for a in (part.keys, part.values)])
    return found
