"""MLX's run-time compiler, which stays off on a CPU while the product works.

It calls the system's C++ compiler for every kernel there, which may be missing and costs more than
it saves; models of mlx-lm ask for it in their activations. On a GPU nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def compiles() -> bool:
    """Whether ``mx.compile`` does something in this process; MLX has no function that tells."""
    calls = []

    def counted(array: mx.array) -> mx.array:
        calls.append(1)
        return array

    twice = mx.compile(counted)
    for _ in range(2):
        twice(mx.array(0))
    return len(calls) == 1  # traced once, then replayed


@contextmanager
def uncompiled_on_cpu() -> Iterator[None]:
    """On a CPU ``mx.compile`` does nothing while this is open, and what it did before afterwards.

    The switch is the process's: threads that compile on a CPU meanwhile are slower, not wrong.
    """
    if mx.default_device() != mx.Device(mx.cpu) or not compiles():
        yield
        return
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()
