"""The models that are measured: of a known shape with random weights, or opened by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mipo_mlx.errors import ModelError
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.models.load import LanguageModel, load_skeleton
from mipo_mlx.models.random_weights import EndlessTokenizer, configuration, random_model
from mipo_mlx.training.memory_model import Dimensions

BITS = {"fp32": 32.0, "bf16": 16.0, "4bit": 4.5}  # a weight, with its share of scales and biases
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Subject:
    """A model that is not open yet.

    Attributes:
        name: that may be told in public.
        precision: of its weights.
        dtype: that it computes in.
        dimensions: of its configuration.
        weights: bytes that it takes.
        build: opens it.
    """

    name: str
    precision: str
    dtype: mx.Dtype
    dimensions: Dimensions
    weights: int
    build: Callable[[], LanguageModel]


def random(shape: str, precision: str) -> Subject:
    """A shape of ``SHAPES`` in one of ``PRECISIONS``."""
    known = configuration(shape, precision)
    of = Dimensions.of(known)
    tables = of.vocabulary * of.hidden * (1 if known["tie_word_embeddings"] else 2)
    heads = of.head_dim * (2 * of.heads + 2 * of.kv_heads)
    blocks = of.layers * of.hidden * (heads + 3 * of.intermediate)
    return Subject(
        name=shape,
        precision=precision,
        dtype=getattr(mx, known["torch_dtype"]),
        dimensions=of,
        weights=int(BITS[precision] / 8 * (tables + blocks)),
        build=lambda: random_model(shape, precision),
    )


def _precision(known: dict[str, Any], dtype: str) -> str:
    quantized = known.get("quantization")
    return f"{quantized['bits']}bit" if isinstance(quantized, dict) else SHORT[dtype]


def opened(model: str, offline: bool) -> Subject:
    """A model by name; of a folder only its architecture and size are told.

    Raises:
        ModelError: it cannot be found, or its configuration lacks what is needed.
    """
    skeleton = load_skeleton(model, offline=offline)
    known = skeleton.config
    try:
        of = Dimensions.of(known)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{model}: its configuration lacks {error}, so nothing can be predicted.",
            "give --shape",
        ) from error
    dtype = str(known.get("torch_dtype") or known.get("dtype") or "float32")
    dtype = dtype if dtype in SHORT else "float32"
    folder = Path(model).expanduser().is_dir()

    def build() -> LanguageModel:
        return replace(open_model(model, offline=offline), tokenizer=EndlessTokenizer())

    return Subject(
        name=f"{known['model_type']} {of.hidden}x{of.layers}" if folder else model,
        precision=_precision(known, dtype),
        dtype=getattr(mx, dtype),
        dimensions=of,
        weights=skeleton.weights,
        build=build,
    )
