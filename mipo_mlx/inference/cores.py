"""NumPy on every core: pieces of arrays that stay in a core's cache, several at a time.

NumPy lets go of the interpreter inside of its loops, so threads are enough. What each piece comes
to does not depend on how many there are, nor on who works on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import Any

import numpy as np

PIECE = 1 << 16  # elements worked on at once
MOST = 8  # threads


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST, usable or 1)


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked one needs its own."""
    return ThreadPoolExecutor(workers, thread_name_prefix="numpy")


def pieces(shape: Sequence[int], size: int = PIECE) -> list[tuple[Any, ...]]:
    """Indices that cut an array along its first axes into pieces of about ``size`` elements."""
    left = int(np.prod(shape))
    cuts: list[list[Any]] = []
    for length in shape:
        if left <= size or not length:
            break
        left //= length
        step = max(1, size // left)  # of this axis, at once
        cuts.append([slice(start, start + step) for start in range(0, length, step)])
    return [tuple(index) for index in product(*cuts)]


def spread(work: Callable[[tuple[Any, ...]], None], indices: Sequence[tuple[Any, ...]]) -> None:
    """``work`` of every index, on all cores; what it raises is raised."""
    workers = min(_cores(), len(indices))
    if workers < 2:
        for index in indices:
            work(index)
        return

    def some(first: int) -> None:
        for index in indices[first::workers]:
            work(index)

    list(_pool(workers, os.getpid()).map(some, range(workers)))
