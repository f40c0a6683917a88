"""The rate that everything else is measured against."""

from __future__ import annotations

import time

import mlx.core as mx


def matmul_rate(dtype: mx.Dtype, seconds: float = 1.0) -> float:
    """FLOP/s of one large matrix product on this device, the best within some seconds."""
    size = 4096
    if mx.default_device() == mx.Device(mx.cpu):
        size = 1024 if dtype == mx.float32 else 256  # half precision has no fast path there
    one = mx.random.normal((size, size)).astype(dtype)
    mx.eval(one, one @ one)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(one @ one)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
