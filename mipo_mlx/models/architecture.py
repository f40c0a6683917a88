"""What a model is made of, as far as it decides how it can be run."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Name of the module of ``mlx_lm.models`` that a model or a layer comes from."""
    return type(thing).__module__.rpartition(".")[2]


def stops_at_length(model: Any) -> bool:
    """Whether right-padded rows of unlike lengths can be forwarded together, states and all."""
    return {_module(layer) for layer in model.layers} <= STOPPING


def other_states(model: Any) -> set[str]:
    """Kinds of state that layers of a model keep and that are not shared here."""
    from mlx_lm.models.cache import (
        ArraysCache,
        CacheList,
        KVCache,
        RotatingKVCache,
        make_prompt_cache,
    )

    kinds: set[str] = set()

    def look(caches: Iterable[Any]) -> None:
        for cache in caches:
            if type(cache) is CacheList:
                look(cache.caches)
            elif type(cache) not in (KVCache, RotatingKVCache, ArraysCache):
                kinds.add(type(cache).__name__)

    look(make_prompt_cache(model))
    names = {_module(part) for part in (model, *model.layers)}
    return kinds | {UNSHARED[name] for name in names & UNSHARED.keys()}
