"""In which precision a model computes, its copy in fp32, and how large its rounding is.

The rounding of half precision is no fault of a way of running a model, and no constant tells its
size: it depends on depth, width and weights. It is measured: the distance of the model's plain
``__call__`` from the same computation with weights cast to fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mipo_mlx.lm import head
from mipo_mlx.lm.memory import SHARE, device_bytes

HALF = (mx.float16, mx.bfloat16)


def computes_in(model: Any) -> mx.Dtype:
    """The precision of a model's activations: of its hidden states, or of its logits.

    Stored weights do not tell it: quantized layers with scales in fp16 compute in fp32 behind a
    norm in fp32. Nothing is evaluated.
    """
    tokens = mx.array([[0, 0]])
    logits = model(tokens)
    parts = head.parts(model)
    if logits.dtype != mx.float32 or parts is None:
        return logits.dtype
    return parts.hidden(tokens, None).dtype


def _wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if array.dtype in HALF else array


def copy_fits(model: Any) -> bool:
    """Whether the memory that is free holds weights in fp32 besides those in half precision."""
    halves = [a.size for _, a in tree_flatten(model.parameters()) if a.dtype in HALF]
    return 4 * sum(halves) + mx.get_active_memory() <= SHARE * device_bytes()


@contextmanager
def widened(model: Any) -> Iterator[None]:
    """Weights in half precision are fp32 while this is open; quantized ones stay as they are."""
    before = model.parameters()
    model.update(tree_map(_wide, before))
    try:
        yield
    finally:
        model.update(before)


@functools.cache
def matmul_rounding() -> float:
    """Relative error of one product of matrices in fp32 on this device.

    About 1e-7, or 3e-4 where fp32 is multiplied as TF32.
    """
    one = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    exact = one.astype(np.float64) @ one.astype(np.float64)
    made = np.array(mx.array(one) @ mx.array(one), dtype=np.float64)
    return float(np.linalg.norm(made - exact) / np.linalg.norm(exact))


@contextmanager
def nudged(model: Any, seed: int = 0) -> Iterator[None]:
    """Vectors of weights, such as norms', are off by one rounding, up or down at random.

    By as much as they are known at all. What this changes is of the size of the rounding of a
    forward pass, and takes no memory.
    """
    before = model.parameters()
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(before)) + 1))

    def nudge(array: mx.array) -> mx.array:
        if array.ndim != 1 or not mx.issubdtype(array.dtype, mx.floating):
            return array
        unit = max(float(mx.finfo(array.dtype).eps), 4 * matmul_rounding())
        sign = mx.where(mx.random.bernoulli(0.5, array.shape, key=next(keys)), unit, -unit)
        return (array.astype(mx.float32) * (1 + sign)).astype(array.dtype)

    model.update(tree_map(nudge, before))
    try:
        yield
    finally:
        model.update(before)
