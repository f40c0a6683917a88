"""Gradient checkpointing that stays exact when keys, values and states are shared.

Each block's activations are dropped after the forward pass and made again in the backward pass.
What a block reads, from its arguments and from caches, goes in as explicit arrays, and what it
returns and writes comes out as explicit arrays: gradients flow through all of them. Hidden in a
cache or a tuple they would be constants to ``mx.checkpoint``, and the gradient silently wrong at an
unchanged loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mipo_mlx.inference.kv_cache import ExplicitCache

PLAIN = (str, bool, int, float, type(None))  # what holds no arrays
NESTS = (tuple, list, dict)


def _known(value: Any) -> bool:
    """Whether every array in it can be seen: nests of arrays, caches of ours and plain values."""
    if type(value) in NESTS:
        return all(map(_known, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (mx.array, ExplicitCache, *PLAIN))


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of all that is no nest, in the same nests, always in the same order."""
    if type(value) is dict:
        return {name: _mapped(function, item) for name, item in value.items()}
    if type(value) in NESTS:
        return type(value)(_mapped(function, item) for item in value)
    return function(value)


def _leaves(kind: type[Any], value: Any) -> list[Any]:
    """All that is of a kind, in order."""
    found: list[Any] = []
    _mapped(lambda item: found.append(item) if isinstance(item, kind) else None, value)
    return found


def _put(kind: type[Any], value: Any, items: list[Any]) -> Any:
    """The same with others in place of all that is of a kind."""
    left = iter(items)
    return _mapped(lambda item: next(left) if isinstance(item, kind) else item, value)


def _distinct(arrays: list[mx.array]) -> list[mx.array]:
    """The same values, each in an array of its own.

    ``mx.checkpoint`` (MLX 0.32) drops the gradient of an array that it is given back twice, such as
    keys that a block both writes to its cache and returns for later blocks.
    """
    return [array if array.dtype == mx.bool_ else array + 0 for array in arrays]


class _Hole:
    """Where an array stood."""


def _checkpointed(plain: Callable[..., Any], layer: nn.Module, given: Any) -> Any:
    """One block, its arguments ``given`` as a pair of positional and named ones."""
    caches: list[ExplicitCache] = _leaves(ExplicitCache, given)
    held = [cache.state for cache in caches]
    before = [cache.twin(state) for cache, state in zip(caches, held, strict=True)]
    shape: list[Any] = []  # of what it returns, without arrays: they would stay as long as this

    def block(params: Any, arrays: list[mx.array], held: list[list[mx.array]]) -> Any:
        """Called again for the backward pass, when model and caches have moved on."""
        twins = [cache.twin(state) for cache, state in zip(before, held, strict=True)]
        args, kwargs = _put(ExplicitCache, _put(mx.array, given, arrays), twins)
        current = layer.trainable_parameters()
        layer.update(params)
        try:
            out = plain(layer, *args, **kwargs)
        finally:
            layer.update(current)
        if not _known(out):
            raise TypeError(f"a block returns {type(out).__name__}, which cannot be checkpointed")
        found = _leaves(mx.array, out)
        shape[:] = [_put(mx.array, out, [_Hole()] * len(found))]
        written = [twin.written(len(old)) for twin, old in zip(twins, held, strict=True)]
        return _distinct(found), [_distinct(new) for new in written]

    params = layer.trainable_parameters()
    arrays, written = mx.checkpoint(block)(params, _leaves(mx.array, given), held)
    for cache, new in zip(caches, written, strict=True):
        cache.extend(new)
    return _put(_Hole, shape[0], arrays)


@functools.cache
def _kind(plain: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a block's class that checkpoints calls; other instances know nothing of it."""

    def call(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        function: Callable[..., Any] = plain.__call__
        if _known((args, kwargs)):
            return _checkpointed(function, layer, (args, kwargs))
        return function(layer, *args, **kwargs)  # arrays may be hidden

    return type(plain.__name__, (plain,), {"__call__": call})


@contextmanager
def recomputed(model: Any, on: bool = True) -> Iterator[None]:
    """Blocks of this model are checkpointed while this is open, when ``on``.

    Each block is of a subclass of its class meanwhile: its attributes, parameters and place in
    the model's lists stay as they are, and so do all other models.
    """
    layers = [layer for layer in model.layers if isinstance(layer, nn.Module)] if on else []
    blocks = {id(layer): (layer, type(layer)) for layer in layers}.values()
    try:
        for layer, plain in blocks:
            layer.__class__ = _kind(plain)
        yield
    finally:
        for layer, plain in blocks:
            layer.__class__ = plain
