"""Prompts forwarded for their keys and values alone, for others to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.data.batches import pad_right
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.layer_caches import (
    Caches,
    absorb,
    arrays,
    fork,
    new_caches,
    rows_of,
    settle,
    with_keys,
    with_states,
)

CAUSAL_PIECE = 128  # tokens of a stem forwarded at once on a CPU


@dataclass(frozen=True)
class Held:
    """Forwarded stems: caches in prompt mode, or settled ones, and real tokens of each [s].

    ``even`` where all have as many.
    """

    caches: Caches
    lengths: mx.array
    even: bool = False


def lengths_of(rows: Sequence[tuple[int, ...]]) -> mx.array:
    """Tokens of each [n] int32."""
    return mx.array([len(ids) for ids in rows], dtype=mx.int32)


def unpadded(rows: Sequence[tuple[int, ...]]) -> bool:
    """Whether all have as many tokens, and so need no padding."""
    return len(set(map(len, rows))) == 1


def hold(
    model: Any,
    tokens: mx.array,
    lengths: mx.array,
    *,
    even: bool = False,
    segmented: bool = False,
) -> Held:
    """Forward right-padded stems [s, ls]; ``even`` where there is no padding.

    In pieces on a CPU, where attention makes every score, also those that are masked: a piece meets
    the keys up to its own end only.
    """
    caches = new_caches(model, segmented=segmented)
    step = max(1, tokens.shape[1])
    if lm_head.on_cpu():
        step = CAUSAL_PIECE
    for start in range(0, tokens.shape[1], step):
        piece = tokens[:, start : start + step]
        fill(model, piece, caches, real_within(lengths, start, piece.shape[1]), even=even)
    return Held(caches, lengths, even)


def real_within(lengths: mx.array, start: int, width: int) -> mx.array:
    """Of right-padded rows, the real tokens of each [b] among ``width`` that begin at ``start``."""
    return mx.clip(lengths - start, 0, width)


def fill(
    model: Any, tokens: mx.array, caches: Caches, lengths: mx.array, *, even: bool = False
) -> None:
    """Forward right-padded tokens [b, l] for the sake of their keys, values and states, left lazy.

    What lies behind the last keys is never computed, for nobody asks for it.

    Args:
        model: an mlx-lm model.
        tokens: [b, l].
        caches: of the model, a row each; they go on in place.
        lengths: real tokens of each row [b]. Padding is among the new columns and is to be hidden;
            states are those of each row's last real token.
        even: these are all tokens.
    """
    states = with_states(caches)
    stop = all(state.stops for state in states)
    if not states or (even and (tokens.shape[1] > 1 or not stop)):
        _forward(model, tokens, caches)
    elif not stop:
        _fill_by_length(model, tokens, caches, np.array(lengths))
    else:
        _fill_to_length(model, tokens, caches, lengths)


def _fill_to_length(model: Any, tokens: mx.array, caches: Caches, lengths: mx.array) -> None:
    """All rows at once, by layers that leave a state as it is where the row ends.

    At least two tokens wide: Metal kernels for one know neither lengths nor gradients.
    """
    narrow = tokens.shape[1] == 1
    states = with_states(caches)
    for state in states:
        state.lengths = lengths
    try:
        _forward(model, mx.pad(tokens, [(0, 0), (0, 1)]) if narrow else tokens, caches)
    finally:
        for state in states:
            state.lengths = None
    if narrow:
        for cache in with_keys(caches):
            cache.trim(1)


def _fill_by_length(model: Any, tokens: mx.array, caches: Caches, lengths: np.ndarray) -> None:
    """Rows of one length at a time: nothing that changes a state is padding."""
    groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    layout = next((cache.layout for cache in with_keys(caches)), None)
    parts = []
    for rows in groups:
        index, length = mx.array(rows.astype(np.int32)), int(lengths[rows[0]])
        part = rows_of(caches, layout and layout.take(index), index, len(rows))
        if length:
            _forward(model, tokens[index, :length], part)
        parts.append(part)
    absorb(caches, parts, [rows.tolist() for rows in groups], tokens.shape[1])


def _forward(model: Any, tokens: mx.array, caches: Caches) -> None:
    """Without the head, where it can be told apart."""
    parts = lm_head.parts(model)
    if parts is None:
        model(tokens, cache=caches)
    else:
        parts.hidden(tokens, caches)


def hold_in_chunks(
    model: Any, stems: Sequence[tuple[int, ...]], max_tokens: int, trunk: Held | None = None
) -> Held:
    """Forward stems for inference, at most ``max_tokens`` padded tokens at once.

    ``trunk`` holds one row that all of them go on from.
    """
    padded, _ = pad_right(stems)
    chunk = max(1, max_tokens // len(stems))
    lengths = lengths_of(stems)
    if trunk is None:
        caches = new_caches(model)
    else:
        caches = fork(
            trunk.caches, mx.zeros(len(stems), dtype=mx.int32), trunk.lengths, even=trunk.even
        )
    for start in range(0, padded.shape[1], chunk):
        piece = mx.array(padded[:, start : start + chunk])
        real = real_within(lengths, start, piece.shape[1])
        fill(model, piece, caches, real, even=unpadded(stems))
        mx.eval(arrays(caches))
    if trunk is None:
        return Held(caches, lengths, unpadded(stems))
    settle(caches, lengths, even=unpadded(stems))
    return Held(caches, lengths + trunk.lengths, trunk.even and unpadded(stems))
