"""LoRA on mlx-lm's own layers: attach, save, switch off, take away.

The folder written here opens with stock ``mlx_lm.load(model, adapter_path=folder)``. ``scale`` is
mlx-lm's plain multiplier, not alpha. Not covered: DoRA, dropout, fusing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mipo_mlx.errors import ModelError
from mipo_mlx.lm.load import LanguageModel

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


def linear_keys(model: Any) -> tuple[str, ...]:
    """Names, within a block, of every linear layer that can carry LoRA, sorted."""
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    plain = (nn.Linear, nn.QuantizedLinear)
    kinds = (*plain, SwitchLinear, QuantizedSwitchLinear)
    names = {
        name
        for block in model.layers
        for name, module in block.named_modules()
        if isinstance(module, kinds) or hasattr(module, "to_lora")
    }
    return tuple(sorted(names))


def _lora_modules(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if "lora_a" in module]


def attach(
    lm: LanguageModel, *, rank: int, scale: float, num_layers: int, seed: int
) -> tuple[str, ...]:
    """Freeze the model and put fresh LoRA on every linear layer of its last blocks.

    Args:
        rank: of the low-rank update, at least 1.
        scale: multiplier of the update.
        num_layers: blocks, counted from the last; 0 or below is all.
        seed: of the first factor; the second is 0, so the model's outputs do not change yet.

    Returns:
        Names of the layers within a block, for ``save``.

    Raises:
        ModelError: the model carries LoRA already.
    """
    from mlx_lm.tuner.utils import linear_to_lora_layers

    if _lora_modules(lm.model):
        raise ModelError(f"{lm.name} carries an adapter already.", "load the model without one")
    keys = linear_keys(lm.model)
    lm.model.freeze()
    mx.random.seed(seed)
    linear_to_lora_layers(lm.model, num_layers, _parameters(rank, scale, keys))
    mx.eval(lm.model.trainable_parameters())
    return keys


def _parameters(rank: int, scale: float, keys: Sequence[str]) -> dict[str, Any]:
    return {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(keys)}


def save(
    lm: LanguageModel,
    folder: Path,
    *,
    rank: int,
    scale: float,
    num_layers: int,
    keys: Sequence[str],
    extra: Mapping[str, Any],
) -> None:
    """Write the adapter to ``folder``, each file whole or not at all, readable by its owner only.

    Args:
        keys: as ``attach`` returned them.
        extra: provenance for ``adapter_config.json``; mlx-lm ignores what it does not know.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    weights: dict[str, mx.array] = {}
    tree_flatten(lm.model.parameters(), destination=weights)
    weights = {name: weights[name] for name in weights if name.endswith((".lora_a", ".lora_b"))}
    draft = _draft(folder / f".{os.getpid()}.{WEIGHTS}")
    mx.save_safetensors(str(draft), weights)
    os.replace(draft, folder / WEIGHTS)
    config = {
        **extra,
        "fine_tune_type": "lora",
        "num_layers": num_layers,
        "lora_parameters": _parameters(rank, scale, keys),
    }
    draft = _draft(folder / f".{os.getpid()}.{CONFIG}")
    draft.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, folder / CONFIG)


def _draft(path: Path) -> Path:
    """An empty private file, to be filled and renamed."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return path


@contextmanager
def adapter_disabled(lm: LanguageModel) -> Iterator[None]:
    """The base model, bit for bit, while this is open; ``mx.compile`` would not notice it."""
    modules = [module for _, module in _lora_modules(lm.model)]
    scales = [module.scale for module in modules]
    try:
        for module in modules:
            module.scale = 0.0
        yield
    finally:
        for module, scale in zip(modules, scales, strict=True):
            module.scale = scale


def detach(lm: LanguageModel) -> None:
    """Take LoRA away; the base layers come back as they were."""
    bases = [(name, module.linear) for name, module in _lora_modules(lm.model)]
    if bases:
        lm.model.update_modules(tree_unflatten(bases))
