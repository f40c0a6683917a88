"""How much memory there is to use, and how much was used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

SHARE = 0.7  # of what the device recommends


def device_bytes() -> int:
    """What the device recommends to use at most; the machine's memory where it says nothing.

    ``max_recommended_working_set_size`` is Metal's; other back ends have other keys or none.
    """
    info = mx.device_info()
    for key in ("max_recommended_working_set_size", "memory_size", "total_memory"):
        value = info.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limit_bytes(gib: float) -> int:
    """A limit given in GiB as bytes; 0 takes ``SHARE`` of ``device_bytes``."""
    return int(gib * 2**30) if gib else int(SHARE * device_bytes())


@contextmanager
def measured(stats: dict[str, Any]) -> Iterator[None]:
    """Add seconds and MLX's peak memory (bytes) of the block to ``stats``."""
    mx.reset_peak_memory()
    start = time.perf_counter()
    yield
    stats["seconds"] = round(time.perf_counter() - start, 2)
    stats["peak_memory_bytes"] = mx.get_peak_memory()
