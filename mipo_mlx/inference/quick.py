"""On a CPU: models compute attention, sigmoid and tanh by way of NumPy while this is open.

MLX's own take 25 to 40 ns an element there. Values are needed at once, so MLX's run-time compiler
is switched off for the process; and checkpointed blocks are better left alone, for what they drop
would stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.inference.attention import Part, attend, attend_and_back, forget
from mipo_mlx.inference.cores import pieces, spread

FEWEST = 1 << 15  # scores; below, the detour costs more than it saves
FEW = 1 << 13  # other elements

_attention: Any = mx.fast.scaled_dot_product_attention


class _Thread(threading.local):
    """Whether this thread goes by NumPy, for gradients too, and what it was last offered."""

    on = False
    gradient = False
    offered: tuple[mx.array, mx.array, Sequence[Part]] | None = None


_thread = _Thread()
_lock = threading.Lock()
_open = [0]


def by_parts() -> bool:
    """Whether this thread's attention can do without joined keys and values."""
    return _thread.on


def offer(keys: mx.array, values: mx.array, parts: Sequence[Part]) -> None:
    """Say what joined keys and values consist of.

    Attention that is then asked for these very arrays reads the parts, and they are never made.
    """
    _thread.offered = (keys, values, parts)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, **how: Any) -> mx.array:
    """Ours where it is exact and pays, else MLX's own."""
    mask, sinks = how.get("mask"), how.get("sinks")
    if isinstance(mask, mx.array):
        known = mask.dtype == mx.bool_
    else:
        known = mask is None or mask == "causal"
    size = queries.size // queries.shape[-1] * keys.shape[2]
    fits = known and sinks is None and queries.dtype == mx.float32
    if not _thread.on or not fits or size < FEWEST:
        own: mx.array = _attention(queries, keys, values, **how)
        return own
    offered, _thread.offered = _thread.offered, None
    parts: Sequence[Part] = [Part(keys, values)]
    if offered is not None and offered[0] is keys and offered[1] is values:
        parts = offered[2]
    function = attend_and_back if _thread.gradient else attend
    return function(queries, parts, scale=how["scale"], mask=mask)


def _sigmoid(array: np.ndarray, out: np.ndarray) -> None:
    np.negative(array, out=out)
    with np.errstate(over="ignore"):  # exp of a large number is inf, and its reciprocal right
        np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def _tanh(array: np.ndarray, out: np.ndarray) -> None:
    np.tanh(array, out=out)


def _mapped(function: Callable[[np.ndarray, np.ndarray], None], array: mx.array) -> mx.array:
    """A function of every element, by pieces."""
    given = np.array(array, copy=False)
    out = np.empty(given.shape, dtype=np.float32)
    spread(lambda index: function(given[index], out[index]), pieces(given.shape))
    return mx.array(out)


def _through(
    own: Any,
    function: Callable[[np.ndarray, np.ndarray], None],
    slope: Callable[[mx.array], mx.array],
) -> Any:
    """An elementwise function by NumPy; ``slope`` is its derivative, told from its values."""

    def call(array: mx.array, /, *args: Any, **kwargs: Any) -> mx.array:
        plain = not isinstance(array, mx.array) or args or kwargs
        if plain or not _thread.on or array.dtype != mx.float32 or array.size < FEW:
            made: mx.array = own(array, *args, **kwargs)
            return made
        values = _mapped(function, array)
        if not _thread.gradient:
            return values

        @mx.custom_function
        def known(array: mx.array) -> mx.array:
            return values

        @known.vjp
        def backward(primal: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            return cotangent * slope(values)

        called: Any = known
        found: mx.array = called(array)
        return found

    return call


_REPLACED: list[tuple[Any, str, Any]] = [
    (mx.fast, "scaled_dot_product_attention", _attend),
    (mx, "sigmoid", _through(mx.sigmoid, _sigmoid, lambda y: y * (1 - y))),
    (mx, "tanh", _through(mx.tanh, _tanh, lambda y: 1 - y * y)),
]
_before: list[tuple[Any, str, Any]] = []


def _count(change: int) -> None:
    """Put ours in place with the first thread that opens, and what was there back with the last."""
    with _lock:
        if not _open[0]:
            _before[:] = [(place, name, getattr(place, name)) for place, name, _ in _REPLACED]
        _open[0] += change
        for place, name, function in _REPLACED if _open[0] else _before:
            setattr(place, name, function)


@contextmanager
def quick(gradient: bool = False) -> Iterator[None]:
    """On a CPU, this thread's models go by NumPy while this is open; elsewhere nothing changes.

    Args:
        gradient: what they compute is to be differentiated.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        yield
        return
    mx.disable_compile()
    before = (_thread.on, _thread.gradient)
    _thread.on, _thread.gradient = True, gradient
    _count(+1)
    try:
        yield
    finally:
        _count(-1)
        _thread.on, _thread.gradient = before
        _thread.offered = None
        forget()
