"""What a model keeps of its prompts, one cache a layer: forked, settled, compacted and joined.

Most layers keep keys and values (``GrowingCache``), others states (``StateCache``), and some both,
in a tuple. Columns of keys have positions and can be hidden; a state cannot, and is always that of
a row's last token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.errors import ModelError
from mipo_mlx.inference.kv_cache import GrowingCache, Layout, SegmentedCache, left_aligned, stack
from mipo_mlx.inference.state_cache import StateCache, recognised
from mipo_mlx.models.architecture import other_states, stops_at_length

LayerCache = Any  # GrowingCache, StateCache or a tuple of these
Caches = list[LayerCache]


def leaves(caches: Iterable[LayerCache]) -> Iterator[Any]:
    """Each ``GrowingCache`` and ``StateCache`` in turn."""
    for cache in caches:
        if isinstance(cache, tuple):
            yield from leaves(cache)
        else:
            yield cache


def shaped_like(caches: Iterable[LayerCache], parts: Iterator[Any]) -> Caches:
    """``leaves`` put together again as they are in ``caches``."""
    return [
        tuple(shaped_like(cache, parts)) if isinstance(cache, tuple) else next(parts)
        for cache in caches
    ]


def with_keys(caches: Iterable[LayerCache]) -> list[GrowingCache]:
    """Those that hold keys and values; all of them have the same columns."""
    return [cache for cache in leaves(caches) if isinstance(cache, GrowingCache)]


def with_states(caches: Iterable[LayerCache]) -> list[StateCache]:
    """Those that hold states."""
    return [cache for cache in leaves(caches) if isinstance(cache, StateCache)]


def arrays(caches: Iterable[LayerCache]) -> list[mx.array]:
    """All that is held, to be evaluated."""
    return [array for cache in leaves(caches) for array in cache.state]


def count_of(caches: Sequence[LayerCache]) -> int:
    """Rows of forked caches."""
    for cache in with_keys(caches):
        if cache.layout is not None:
            return int(cache.layout.base.shape[0])
    return with_states(caches)[0].count


def growing(caches: Iterable[LayerCache]) -> list[bool]:
    """Which of ``arrays`` have columns [b, heads, columns, d]; the others are states [b, ...]."""
    return [isinstance(cache, GrowingCache) for cache in leaves(caches) for _ in cache.state]


def newest(caches: Iterable[LayerCache], held: int) -> list[mx.array]:
    """Keys and values of the columns after the first ``held``, and states, in order of layers."""
    found: list[mx.array] = []
    for cache in leaves(caches):
        new = cache.since(held) if isinstance(cache, GrowingCache) else cache.state
        found += new or []
    return found


def _layout(
    caches: Sequence[LayerCache], lengths: mx.array | None, even: bool = False
) -> Layout | None:
    """Where the columns stand, those after the last fork all real; None where there are no keys."""
    first = next(iter(with_keys(caches)), None)
    if first is None:
        return None
    layout = first.layout
    if layout is None:
        assert lengths is not None
        return left_aligned(first.held, lengths, even)
    if first.held > layout.shared:
        new = first.held - layout.shared
        return layout.settle(first.held, mx.full(layout.base.shape, new), even=True)
    return layout


def rows_of(
    caches: Sequence[LayerCache], layout: Layout | None, rows: mx.array | None, count: int
) -> Caches:
    """These rows [n] of caches, None for all ``count``, under a layout that is of these rows."""
    twins = (
        cache.with_rows(layout, rows)
        if isinstance(cache, GrowingCache)
        else cache.with_rows(rows, count)
        for cache in leaves(caches)
    )
    return shaped_like(caches, twins)


def fork(
    caches: Sequence[LayerCache],
    rows: mx.array | None,
    lengths: mx.array | None = None,
    *,
    even: bool = False,
) -> Caches:
    """Caches of these rows, in this order and as often as they are named; None is all, once.

    Args:
        caches: one a layer; they stay as they are.
        rows: indices [n].
        lengths: real columns of each row of ``caches`` when they are in prompt mode.
        even: these are all columns.
    """
    layout = _layout(caches, lengths, even)
    if layout is not None and rows is not None:
        layout = layout.take(rows)
    given = lengths if rows is None else rows
    return rows_of(caches, layout, rows, count_of(caches) if given is None else given.shape[0])


def settle(caches: Sequence[LayerCache], real: mx.array, *, even: bool = False) -> None:
    """Of the columns added since the fork, the first ``real`` [b] of each row count, in place.

    ``even`` says that these are all of them.
    """
    keyed = with_keys(caches)
    if not keyed:
        return
    layout = keyed[0].layout
    assert layout is not None
    layout = layout.settle(keyed[0].held, real, even)
    for cache in keyed:
        cache.layout = layout


def compact(caches: Sequence[LayerCache]) -> Caches:
    """Forked caches with every row's real columns moved to its start; for inference."""
    layout = _layout(caches, None)
    if layout is None:
        return fork(caches, None)
    base = np.array(layout.base)
    width = int(base.max())
    order = mx.argsort(layout.position, axis=1)[:, :width]
    aligned = left_aligned(width, layout.base, even=bool((base == width).all()))
    twins = (
        cache.moved(order, aligned)
        if isinstance(cache, GrowingCache)
        else cache.with_rows(None, cache.count)
        for cache in leaves(caches)
    )
    return shaped_like(caches, twins)


def join(one: Sequence[LayerCache], other: Sequence[LayerCache]) -> Caches:
    """The rows of both, forked caches, one after the other, compacted; for inference."""
    pair = [compact(one), compact(other)]
    counts = [count_of(caches) for caches in pair]
    layout, width = None, 0
    if with_keys(one):
        firsts = [with_keys(caches)[0] for caches in pair]
        width = max(first.held for first in firsts)
        layouts = [first.layout for first in firsts if first.layout is not None]
        even = all(each.even for each in layouts) and firsts[0].held == firsts[1].held
        layout = left_aligned(width, mx.concatenate([each.base for each in layouts]), even)

    def both(left: Any, right: Any) -> Any:
        if isinstance(left, StateCache):
            return left.stacked([right], counts)
        cache = GrowingCache(left.mask_rank, left.reserve)
        cache.layout = layout
        columns = stack([left.since(0), right.since(0)], counts, width)
        if columns is not None:
            cache.hold(*columns)
        return cache

    return shaped_like(one, map(both, leaves(pair[0]), leaves(pair[1])))


def absorb(
    caches: Sequence[LayerCache],
    parts: Sequence[Sequence[LayerCache]],
    groups: Sequence[Sequence[int]],
    width: int,
) -> None:
    """Take what parts of the rows have come to, in place: new columns and states.

    Args:
        caches: of all rows.
        parts: of the rows of each group, which have gone on from ``caches``.
        groups: indices of rows; each row is in one.
        width: columns that are new to ``caches``; a part's own come first.
    """
    counts = [len(group) for group in groups]
    order = mx.array(np.argsort([row for group in groups for row in group]))
    for cache, *some in zip(leaves(caches), *map(leaves, parts), strict=True):
        if isinstance(cache, StateCache):
            cache.put(some[0].stacked(some[1:], counts), order)
            continue
        columns = stack([part.since(cache.held) for part in some], counts, width)
        if columns is not None:
            cache.append(columns[0][order], columns[1][order])


def new_caches(model: Any, reserve: int = 0, *, segmented: bool = False) -> Caches:
    """Empty caches, one for each that the model asks for; ``segmented`` as ``recomputed`` needs.

    Raises:
        ModelError: a layer keeps something that is not shared here.
    """
    from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

    other = other_states(model)
    if other:
        raise ModelError(
            f"Layers with {', '.join(sorted(other))} are not supported (model type "
            f"{getattr(model, 'model_type', '?')!r}).",
            "take a model whose layers keep keys and values or states, such as Llama or Qwen3.5",
        )
    rank, stops = _mask_rank(model), stops_at_length(model)

    def ours(cache: Any) -> Any:
        if isinstance(cache, CacheList):
            return tuple(map(ours, cache.caches))
        if isinstance(cache, ArraysCache):
            return recognised()(len(cache.cache), stops)
        return SegmentedCache(rank) if segmented else GrowingCache(rank, reserve)

    return [ours(cache) for cache in make_prompt_cache(model)]


def allocate(caches: Iterable[LayerCache], columns: int) -> None:
    """Let keys and values grow in place, this many columns at a time; for inference."""
    for cache in with_keys(caches):
        cache.reserve = columns


def primed(caches: Sequence[LayerCache], held: Sequence[mx.array]) -> Caches:
    """New caches, in prompt mode, that hold these arrays: keys and values, or states, of each."""
    rest = iter(held)
    for cache in leaves(caches):
        if isinstance(cache, StateCache):
            for index in range(len(cache.cache)):
                cache[index] = next(rest)
        else:
            cache.hold(next(rest), next(rest))
    return list(caches)


def _mask_rank(model: Any) -> int:
    """Gemma 2 gives grouped heads an axis of their own; a mask of rank 4 would meet it wrongly."""
    if getattr(model, "model_type", "") != "gemma2":
        return 4
    return 5 if model.args.num_attention_heads > model.args.num_key_value_heads else 4
