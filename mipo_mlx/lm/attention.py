"""Attention on a CPU, for inference: MLX's products with NumPy's exponentials.

On a CPU MLX 0.32 takes 25 ns for an exponential, NumPy about 1, and most of a forward pass over
long prompts goes there. Scores are made in chunks of rows, of the columns that any of them may see,
and softmax is taken in place. Outside of any transformation only: values are needed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

CHUNK_BYTES = 1 << 23  # of scores at once
FEWEST = 1 << 15  # scores; below, the detour costs more than it saves
_OUT = np.float32(-3e38)  # the score of what may not be seen

_plain: Any = mx.fast.scaled_dot_product_attention


def _columns(mask: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """From the first to past the last column that rows ``start`` to ``stop`` may see."""
    seen = np.flatnonzero(mask[..., start:stop, :].reshape(-1, mask.shape[-1]).any(axis=0))
    return (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, 1)


def _visible(mask: Any, rows: int, columns: int) -> np.ndarray | None:
    """A mask as booleans [b or 1, h or 1, rows, columns], or None where all is seen."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return np.tri(rows, columns, columns - rows, dtype=bool)[None, None]
    found = np.array(mask, copy=False)
    return found.reshape((1,) * (4 - found.ndim) + found.shape)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any
) -> mx.array:
    """``softmax(scale q k^T) v`` in fp32, of grouped heads.

    Args:
        queries: [b, h, l, d].
        keys: [b, g, s, d], g a divisor of h.
        values: [b, g, s, e].
        scale: of the scores.
        mask: None, "causal" (the last row sees all), or booleans that broadcast to [b, h, l, s]. A
            row that sees nothing is not defined.

    Returns:
        [b, h, l, e].
    """
    b, heads, rows, d = queries.shape
    groups, columns = keys.shape[1], keys.shape[2]
    each = heads // groups
    scaled = (queries * scale).reshape(b, groups, each, rows, d)
    across = keys.swapaxes(-1, -2)
    seen = _visible(mask, rows, columns)
    width = max(1, CHUNK_BYTES // (4 * b * heads * columns))
    made = []
    for start in range(0, rows, width):
        stop = min(rows, start + width)
        low, high = (0, columns) if seen is None else _columns(seen, start, stop)
        part = scaled[:, :, :, start:stop].reshape(b, groups, each * (stop - start), d)
        scores = part @ across[..., low:high]
        mx.eval(scores)
        array = np.array(scores, copy=False).reshape(b, heads, stop - start, high - low)  # a view
        if seen is not None:
            np.copyto(array, _OUT, where=~seen[..., start:stop, low:high])
        np.subtract(array, array.max(axis=-1, keepdims=True), out=array)
        np.exp(array, out=array)
        total = mx.array(array.sum(axis=-1, keepdims=True))
        out = (scores @ values[:, :, low:high]).reshape(b, heads, stop - start, -1) / total
        mx.eval(out)
        made.append(out)
    return made[0] if len(made) == 1 else mx.concatenate(made, axis=2)


def _either(queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
    """``attend`` where it is exact and pays, else MLX's own."""
    mask, sinks = how.get("mask"), how.get("sinks")
    if isinstance(mask, mx.array):
        known = mask.dtype == mx.bool_
    else:
        known = mask is None or mask == "causal"
    size = queries.size // queries.shape[-1] * keys.shape[2]
    if not known or sinks is not None or queries.dtype != mx.float32 or size < FEWEST:
        own: mx.array = _plain(queries, keys, values, **how)
        return own
    return attend(queries, keys, values, scale=how["scale"], mask=mask)


@contextmanager
def quick_attention() -> Iterator[None]:
    """On a CPU, models attend by ``attend`` while this is open; elsewhere nothing changes."""
    if mx.default_device() != mx.Device(mx.cpu):
        yield
        return
    fast: Any = mx.fast
    before = fast.scaled_dot_product_attention
    fast.scaled_dot_product_attention = _either
    try:
        yield
    finally:
        fast.scaled_dot_product_attention = before
