"""Models of real shapes with random weights: for measurements without a download.

Configurations are those that the models' own ``config.json`` give, but for ``tiny``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mipo_mlx.models.load import LanguageModel

_QWEN: dict[str, Any] = {
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 32_768,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        **_LLAMA,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
    "smollm2-135m": {
        **_LLAMA,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
    },
    "qwen2.5-0.5b": {
        **_QWEN,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
    },
    "qwen2.5-1.5b": {
        **_QWEN,
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
    },
    "qwen2.5-7b": {
        **_QWEN,
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "intermediate_size": 18_944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
PRECISIONS = ("fp32", "bf16", "4bit")
QUANTIZATION = {"group_size": 64, "bits": 4}  # mlx-lm's own default


class EndlessTokenizer:
    """As much of a tokenizer as sampling asks for: it ends no turn, and decodes to nothing."""

    eos_token_id = None
    eos_token_ids: frozenset[int] = frozenset()
    bos_token = None

    def decode(self, ids: Any, **_: Any) -> str:
        return ""


def configuration(shape: str, precision: str) -> dict[str, Any]:
    """``config.json`` of a shape of ``SHAPES`` in one of ``PRECISIONS``."""
    known = {**SHAPES[shape], "torch_dtype": "float32" if precision == "fp32" else "bfloat16"}
    return {**known, "quantization": QUANTIZATION} if precision == "4bit" else known


def random_model(shape: str, precision: str, seed: int = 0) -> LanguageModel:
    """A model of a shape with random weights, whose answers end at their greatest length only.

    Weights are made block by block, so that those in fp32 are never all there at once.

    Args:
        shape: of ``SHAPES``.
        precision: of ``PRECISIONS``; "4bit" computes in bf16.
        seed: of the weights.
    """
    known = configuration(shape, precision)
    module = importlib.import_module(f"mlx_lm.models.{known['model_type']}")
    mx.random.seed(seed)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(known))
    if precision != "fp32":
        model.set_dtype(mx.bfloat16)
    if precision == "4bit":
        nn.quantize(model, group_size=QUANTIZATION["group_size"], bits=QUANTIZATION["bits"])
    for layer in model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())
    window = known["max_position_embeddings"]
    return LanguageModel(model.eval(), EndlessTokenizer(), Path("."), shape, "", window)
