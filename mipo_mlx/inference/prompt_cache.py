"""Prompts forwarded for their keys and values alone, for others to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mipo_mlx.data.batches import pad_right
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.kv_cache import GrowingCache, fork, new_caches, settle

CAUSAL_PIECE = 128  # tokens of a stem forwarded at once on a CPU


@dataclass(frozen=True)
class Held:
    """Forwarded stems: caches in prompt mode, or settled ones, and real tokens of each [s]."""

    caches: list[GrowingCache]
    lengths: mx.array


def lengths_of(rows: Sequence[tuple[int, ...]]) -> mx.array:
    """Tokens of each [n] int32."""
    return mx.array([len(ids) for ids in rows], dtype=mx.int32)


def hold(model: Any, tokens: mx.array, lengths: mx.array, *, segmented: bool = False) -> Held:
    """Forward right-padded stems [s, ls].

    In pieces on a CPU, where attention makes every score, also those that are masked: a piece meets
    the keys up to its own end only.
    """
    caches = new_caches(model, segmented=segmented)
    step = max(1, tokens.shape[1])
    if lm_head.on_cpu():
        step = CAUSAL_PIECE
    for start in range(0, tokens.shape[1], step):
        fill(model, tokens[:, start : start + step], caches)
    return Held(caches, lengths)


def fill(model: Any, tokens: mx.array, caches: list[GrowingCache]) -> None:
    """Forward tokens for the sake of their keys and values, which are left lazy.

    What lies behind the last keys is never computed, for nobody asks for it.
    """
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
        caches = fork(trunk.caches, mx.zeros(len(stems), dtype=mx.int32), trunk.lengths)
    for start in range(0, padded.shape[1], chunk):
        fill(model, mx.array(padded[:, start : start + chunk]), caches)
        mx.eval([cache.state for cache in caches])
    if trunk is None:
        return Held(caches, lengths)
    settle(caches, lengths)
    return Held(caches, lengths + trunk.lengths)
