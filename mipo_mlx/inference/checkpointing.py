"""Gradient checkpointing that stays exact when keys and values are shared.

Each block's activations are dropped after the forward pass and made again in the backward pass.
What a block reads from its cache goes in as an explicit argument, and what it writes comes out as
an explicit result: gradients flow through both. Hidden in the cache object they would be constants
to ``mx.checkpoint``, and the gradient silently wrong at an unchanged loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from mipo_mlx.inference.kv_cache import SegmentedCache

KNOWN = (mx.array, SegmentedCache, str, bool, int, float, type(None))  # what a block may be given


def _call(plain: Any, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One block, checkpointed; plain where it is given what may hide arrays, or several caches."""
    named: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    caches = {name: value for name, value in named.items() if isinstance(value, SegmentedCache)}
    if len(caches) > 1 or not all(isinstance(value, KNOWN) for value in named.values()):
        return plain(layer, *args, **kwargs)
    place, cache = next(iter(caches.items()), (None, None))
    held = [] if cache is None else cache.state
    before = (
        None if cache is None else cache.twin(held)
    )  # the block runs again when it has moved on
    arrays = {name: value for name, value in named.items() if isinstance(value, mx.array)}
    names = list(arrays)
    written: list[SegmentedCache] = []

    def block(params: Any, given: list[mx.array], held: list[mx.array]) -> Any:
        layer.update(params)
        known = {**named, **dict(zip(names, given, strict=True))}
        if before is not None:
            known[place] = twin = before.twin(held)
            written[:] = [twin]
        out = plain(
            layer,
            *(known[index] for index in range(len(args))),
            **{name: known[name] for name in kwargs},
        )
        return out, written[0].state[len(held) :] if written else []

    params = layer.trainable_parameters()
    out, made = mx.checkpoint(block)(params, [arrays[name] for name in names], held)
    layer.update(params)
    if cache is not None and made:
        cache.append(*made)
    return out


@contextmanager
def recomputed(model: Any, on: bool = True) -> Iterator[None]:
    """Blocks of the model are checkpointed while this is open, when ``on``.

    The classes of its blocks are changed meanwhile, as mlx-lm's own ``grad_checkpoint`` does for
    good; blocks that are given caches of another kind run as ever.
    """
    kinds = {type(layer) for layer in model.layers} if on else set()
    own = {kind: kind.__dict__.get("__call__") for kind in kinds}
    try:
        for kind in kinds:
            _wrap(kind)
        yield
    finally:
        for kind, plain in own.items():
            if plain is None:
                del kind.__call__
            else:
                kind.__call__ = plain


def _wrap(kind: Any) -> None:
    plain = kind.__call__

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return _call(plain, layer, args, kwargs)

    kind.__call__ = call
