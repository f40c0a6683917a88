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
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mipo_mlx.inference import lm_head
from mipo_mlx.models.memory import SHARE, device_bytes

HALF = (mx.float16, mx.bfloat16)


def computes_in(model: Any) -> mx.Dtype:
    """The precision of a model's activations: of its hidden states, or of its logits.

    Stored weights do not tell it: quantized layers with scales in fp16 compute in fp32 behind a
    norm in fp32. Nothing is evaluated.
    """
    tokens = mx.array([[0, 0]])
    found: mx.Dtype = model(tokens).dtype
    parts = lm_head.parts(model)
    if found == mx.float32 and parts is not None:
        found = parts.hidden(tokens, None).dtype
    return found


def _wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if array.dtype in HALF else array


def _copy_fits(model: Any) -> bool:
    """Whether the memory that is free holds weights in fp32 besides those in half precision."""
    arrays = dict(tree_flatten(model.parameters())).values()
    copy = sum(4 * array.size for array in arrays if array.dtype in HALF)
    return bool(copy + mx.get_active_memory() <= SHARE * device_bytes())


@contextmanager
def widened(model: Any) -> Iterator[bool]:
    """A model in half precision computes in fp32 while this is open; whether it does is told.

    All weights are cast where a copy fits; quantized ones stay, and their scales are cast. Else
    embeddings and norms alone: what goes into the blocks is fp32 then, and MLX makes products of it
    with weights in half precision in fp32, a matrix at a time.
    """
    before = model.parameters()
    try:
        if _copy_fits(model):
            model.update(tree_map(_wide, before))
        else:
            model.update(tree_map(lambda a: _wide(a) if a.ndim == 1 else a, before))
            for module in model.modules():
                if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)):
                    table: Any = module
                    table.update(tree_map(_wide, table.parameters()))
        yield computes_in(model) == mx.float32
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
