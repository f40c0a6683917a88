"""How much memory there is to use, what MLX's allocator is held to, and how much was used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

SHARE = 0.7  # of what the device recommends
CACHE_SHARE = 0.25  # of the limit, for freed buffers that wait to be used again
RECOMMENDED = "max_recommended_working_set_size"  # Metal's key in mx.device_info()


def device_bytes() -> int:
    """What the device recommends to use at most; the machine's memory where it says nothing.

    ``max_recommended_working_set_size`` is Metal's; other back ends have other keys or none.
    """
    info = mx.device_info()
    for key in (RECOMMENDED, "memory_size", "total_memory"):
        value = info.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limit_bytes(gib: float) -> int:
    """A limit given in GiB as bytes; 0 takes ``SHARE`` of ``device_bytes``."""
    return int(gib * 2**30) if gib else int(SHARE * device_bytes())


@dataclass(frozen=True)
class AllocatorLimits:
    """What MLX's allocator is held to, in bytes.

    Attributes:
        memory: above it work waits for what runs, and freed buffers go back to the system.
        cache: most that freed buffers keep; without a limit they grow with every new length.
        wired: most that is kept from being paged out; None where it is left alone.
    """

    memory: int
    cache: int
    wired: int | None


def allocator_limits(gib: float) -> AllocatorLimits | None:
    """What ``--memory-limit`` means for the allocator; None on a CPU, where nothing is set.

    Only Metal wires memory, and it refuses to wire more than it recommends.
    """
    if mx.default_device() == mx.Device(mx.cpu):
        return None
    limit = limit_bytes(gib)
    wired = None
    if mx.metal.is_available():
        most = mx.device_info().get(RECOMMENDED)
        wired = min(limit, most) if isinstance(most, int) else None
    return AllocatorLimits(limit, int(CACHE_SHARE * limit), wired)


def _set(limits: AllocatorLimits) -> AllocatorLimits:
    """Hold the allocator to these; returns what it was held to before."""
    memory = mx.set_memory_limit(limits.memory)
    cache = mx.set_cache_limit(limits.cache)
    wired = None if limits.wired is None else mx.set_wired_limit(limits.wired)
    return AllocatorLimits(memory, cache, wired)


@contextmanager
def allocator_within(gib: float) -> Iterator[None]:
    """Hold MLX's allocator to ``allocator_limits(gib)`` for the length of the block."""
    limits = allocator_limits(gib)
    if limits is None:
        yield
        return
    before = _set(limits)
    try:
        yield
    finally:
        mx.synchronize()  # the wired limit must not change under running work
        _set(before)


@contextmanager
def measured(stats: dict[str, Any]) -> Iterator[None]:
    """Add seconds and MLX's peak memory (bytes) of the block to ``stats``."""
    mx.reset_peak_memory()
    start = time.perf_counter()
    yield
    stats["seconds"] = round(time.perf_counter() - start, 2)
    stats["peak_memory_bytes"] = mx.get_peak_memory()
