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

from mipo_mlx.lm.prefix import GrowingCache


def _call(plain: Any, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One block, checkpointed; plain where it has no cache of ours."""
    named: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    caches = {name: value for name, value in named.items() if isinstance(value, GrowingCache)}
    if len(caches) != 1:
        return plain(layer, *args, **kwargs)
    ((place, cache),) = caches.items()
    before = cache.twin([])  # as it is now: the block runs again when it has moved on
    arrays = {name: value for name, value in named.items() if isinstance(value, mx.array)}
    names = list(arrays)
    written: list[GrowingCache] = []

    def block(params: Any, given: list[mx.array], held: list[mx.array]) -> Any:
        layer.update(params)
        twin = before.twin(held)
        known = {**named, **dict(zip(names, given, strict=True)), place: twin}
        out = plain(
            layer,
            *(known[index] for index in range(len(args))),
            **{name: known[name] for name in kwargs},
        )
        written[:] = [twin]
        return out, twin.state

    params = layer.trainable_parameters()
    out, state = mx.checkpoint(block)(params, [arrays[name] for name in names], cache.state)
    layer.update(params)
    cache.take_over(written[0], state)
    return out


@contextmanager
def recomputed(model: Any, on: bool = True) -> Iterator[None]:
    """Blocks of the model are checkpointed while this is open, when ``on``.

    The classes of its blocks are changed meanwhile, as mlx-lm's own ``grad_checkpoint`` does for
    good; blocks that see no cache of ours run as ever.
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
