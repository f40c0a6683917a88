"""What a model is made of, as far as it decides how it can be run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# modules of mlx-lm 0.32.2 whose layers, told ``lengths``, keep the state of each row's last token
STOPPING = {
    "bailing_hybrid",
    "bailing_moe_v3",
    "falcon_h1",
    "granitemoehybrid",
    "kimi_k3",
    "kimi_linear",
    "lfm2",
    "lfm2_moe",
    "mamba2",
    "plamo2",
    "qwen3_5",
    "qwen3_next",
}
# what layers of other modules keep that cannot be shared, although their caches look like it
UNSHARED = {
    "deepseek_v32": "keys that they read back",
    "longcat_flash_ngram": "as many tokens as there were",
    "recurrent_gemma": "states that do not begin with zeros",
}


def _module(thing: Any) -> str:
    """Name of the module of ``mlx_lm.models`` that a model or a layer comes from, "" for none."""
    modules = (kind.__module__.rpartition(".") for kind in type(thing).__mro__)
    return next((name for package, _, name in modules if package == "mlx_lm.models"), "")


def stops_at_length(model: Any) -> bool:
    """Whether right-padded rows of unlike lengths can be forwarded together, states and all."""
    return {_module(layer) for layer in model.layers} <= STOPPING


def _caches(model: Any) -> list[Any]:
    """What mlx-lm makes for a model, lists of caches taken apart."""
    from mlx_lm.models.cache import CacheList, make_prompt_cache

    def flat(caches: Iterable[Any]) -> Iterator[Any]:
        for cache in caches:
            if type(cache) is CacheList:
                yield from flat(cache.caches)
            else:
                yield cache

    return list(flat(make_prompt_cache(model)))


def keeps_states(model: Any) -> bool:
    """Whether a layer keeps states in place of keys and values, or beside them."""
    from mlx_lm.models.cache import ArraysCache

    return any(type(cache) is ArraysCache for cache in _caches(model))


def other_states(model: Any) -> set[str]:
    """Kinds of state that layers of a model keep and that are not shared here."""
    from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

    shared = ArraysCache, KVCache, RotatingKVCache
    kinds = {type(cache).__name__ for cache in _caches(model) if type(cache) not in shared}
    names = {_module(part) for part in (model, *model.layers)}
    return kinds | {UNSHARED[name] for name in names & UNSHARED.keys()}


def recurrent_elements(config: Mapping[str, Any]) -> float:
    """Elements of the states after one token, of a layer on average, that are made token by token.

    For a gradient each token's states are kept, where a layer is a loop over tokens: mlx-lm 0.32.2
    has no other way for delta rules, RWKV-7 and Mamba 1. Layers that take chunks of tokens at once
    (Mamba 2) keep none.

    Args:
        config: contents of ``config.json``, those of ``text_config`` among them.
    """
    kind = config.get("model_type")
    if "linear_num_value_heads" in config:  # Qwen3-Next, Qwen3.5, OLMo hybrid
        sides = "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"
        every = config.get("full_attention_interval") or 4
        return math.prod(int(config[name]) for name in sides) * (1 - 1 / every)
    if "linear_attn_config" in config:  # Kimi Linear
        linear = config["linear_attn_config"]
        share = len(linear["kda_layers"]) / config["num_hidden_layers"]
        return float(linear["num_heads"] * linear["head_dim"] ** 2 * share)
    if kind == "rwkv7":
        return float(config["hidden_size"] * config["head_dim"])
    if kind in ("mamba", "falcon_mamba"):
        return float(config["intermediate_size"] * config["state_size"])
    return 0.0


def total_parameters(model: Any) -> int:
    """Weights of a model; those of a quantized one as many as before it was quantized."""
    from mlx_lm.utils import get_total_parameters

    return int(get_total_parameters(model))
