"""What a model is made of, as far as it decides how it can be run."""

from __future__ import annotations

from typing import Any


def other_states(model: Any) -> set[str]:
    """Kinds of state, other than plain keys and values, that layers of a model keep."""
    from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

    kinds = {type(cache).__name__ for cache in make_prompt_cache(model)}
    return kinds - {KVCache.__name__, RotatingKVCache.__name__}


def total_parameters(model: Any) -> int:
    """Weights of a model; those of a quantized one as many as before it was quantized."""
    from mlx_lm.utils import get_total_parameters

    return int(get_total_parameters(model))
