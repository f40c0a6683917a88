"""LoRA and DoRA on mlx-lm's own layers: attach, go on, save, switch off, take away.

The folder written here opens with stock ``mlx_lm.load(model, adapter_path=folder)``. ``scale`` is
mlx-lm's plain multiplier, not alpha. Not covered: dropout, fusing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mipo_mlx.errors import ConfigError, ModelError
from mipo_mlx.models.load import LanguageModel

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
TRAINED = (".lora_a", ".lora_b", ".m")  # endings of an adapter's arrays; m is DoRA's magnitude


@dataclass(frozen=True)
class Shape:
    """What an adapter is made of, but for its numbers.

    Attributes:
        rank: of the low-rank update, at least 1.
        scale: multiplier of the update.
        num_layers: blocks, counted from the last; 0 or below is all.
        keys: names, within a block, of the linear layers that carry it.
        kind: ``lora`` or ``dora``.
    """

    rank: int
    scale: float
    num_layers: int
    keys: tuple[str, ...]
    kind: str = "lora"

    @property
    def parameters(self) -> dict[str, Any]:
        """``lora_parameters`` of ``adapter_config.json``."""
        return {"rank": self.rank, "scale": self.scale, "dropout": 0.0, "keys": list(self.keys)}


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


def chosen_keys(model: Any, modules: Sequence[str]) -> tuple[str, ...]:
    """``linear_keys`` of these names, whole or their last part; all for none.

    Raises:
        ConfigError: a name is no linear layer of the model.
    """
    every = linear_keys(model)
    if not modules:
        return every
    found = {name: [k for k in every if name in (k, k.rpartition(".")[2])] for name in modules}
    missing = [name for name, keys in found.items() if not keys]
    if missing:
        raise ConfigError(
            f"--lora-modules: no linear layer is called {', '.join(missing)}.",
            "there are " + ", ".join(sorted({key.rpartition(".")[2] for key in every})),
        )
    return tuple(sorted({key for keys in found.values() for key in keys}))


def _refuse_odd_bits(lm: LanguageModel, shape: Shape) -> None:
    """mlx-lm's DoRA takes ``32 // bits`` weights a word, which is wrong for 3, 5 and 6 bits."""
    odd = {
        module.bits
        for block in lm.model.layers[-max(shape.num_layers, 0) :]
        for name, module in block.named_modules()
        if name in shape.keys and isinstance(module, nn.QuantizedLinear) and 32 % module.bits
    }
    if odd:
        bits = ", ".join(map(str, sorted(odd)))
        raise ModelError(
            f"{lm.name}: mlx-lm's DoRA cannot stand on layers of {bits} bits.",
            "take --fine-tune-type lora, or a model of 4 or 8 bits",
        )


def attach(
    lm: LanguageModel,
    *,
    rank: int,
    scale: float,
    num_layers: int,
    seed: int,
    modules: Sequence[str] = (),
    kind: str = "lora",
) -> Shape:
    """Freeze the model and put a fresh adapter on linear layers of its last blocks.

    Args:
        rank, scale, num_layers, kind: as in ``Shape``.
        seed: of the first factor; the second is 0, so the model's outputs do not change yet.
        modules: names of the layers; none takes all linear ones that can carry it.

    Returns:
        What was attached, for ``save``.

    Raises:
        ConfigError: a name of ``modules`` is unknown.
        ModelError: the model carries an adapter already, or a layer cannot carry one of this kind.
    """
    if _lora_modules(lm.model):
        raise ModelError(f"{lm.name} carries an adapter already.", "load the model without one")
    shape = Shape(rank, scale, num_layers, chosen_keys(lm.model, modules), kind)
    if kind == "dora":
        _refuse_odd_bits(lm, shape)
    _freeze(lm)
    _put_on(lm, shape, seed)
    if not _runs(lm.model):
        detach(lm)
        shape = replace(shape, keys=_bearing(lm, shape, bool(modules)))
        _put_on(lm, shape, seed)
    mx.eval(lm.model.trainable_parameters())
    return shape


def _freeze(lm: LanguageModel) -> None:
    """Freeze all parameters.

    Raises:
        ModelError: mlx-lm's class of this architecture cannot be frozen.
    """
    try:
        lm.model.freeze()
    except AttributeError as error:  # its constructor does not call that of nn.Module
        raise ModelError(
            f"{lm.name}: mlx-lm's {type(lm.model).__module__} cannot be trained ({error}).",
            "take a model of another architecture",
        ) from error


def _put_on(lm: LanguageModel, shape: Shape, seed: int) -> None:
    """Replace the layers of a shape by mlx-lm's LoRA or DoRA layers."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.random.seed(seed)
    try:
        linear_to_lora_layers(
            lm.model, shape.num_layers, shape.parameters, use_dora=shape.kind == "dora"
        )
    except ValueError as error:
        raise ModelError(f"{lm.name}: {error}", "take --fine-tune-type lora") from error


def _runs(model: Any) -> bool:
    """Whether a forward pass finds what it reads of its layers; nothing is computed."""
    try:
        model(mx.array([[0]]))
    except AttributeError:
        return False
    return True


def _bearing(lm: LanguageModel, shape: Shape, named: bool) -> tuple[str, ...]:
    """Those of a shape's keys that may carry LoRA: some code reads a layer's weight by itself.

    Raises:
        ModelError: none may, or one that was ``named`` may not.
    """
    good = []
    for key in shape.keys:
        _put_on(lm, replace(shape, keys=(key,)), 0)
        if _runs(lm.model):
            good.append(key)
        detach(lm)
    bad = sorted({key.rpartition(".")[2] for key in set(shape.keys) - set(good)})
    if not good or (named and bad):
        raise ModelError(
            f"{lm.name}: the model reads weights of {', '.join(bad)}, which cannot carry LoRA.",
            "leave these out of --lora-modules",
        )
    return tuple(good)


def go_on(lm: LanguageModel, folder: Path) -> Shape:
    """Make the adapter that the model was loaded with trainable, and nothing else.

    Raises:
        ModelError: its configuration is not that of a LoRA or DoRA adapter.
    """
    path = folder / CONFIG
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        given = known["lora_parameters"]
        keys = given.get("keys") or linear_keys(lm.model)
        shape = Shape(
            int(given["rank"]),
            float(given["scale"]),
            int(known["num_layers"]),
            tuple(keys),
            known.get("fine_tune_type", "lora"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: not the configuration of an adapter.", "give a folder that mlx-lm opens"
        ) from error
    lm.model.freeze()
    for _, module in _lora_modules(lm.model):
        module.unfreeze(keys=["lora_a", "lora_b", "m"], recurse=False)
    return shape


def save(lm: LanguageModel, folder: Path, shape: Shape, *, extra: Mapping[str, Any]) -> None:
    """Write the adapter to ``folder``, each file whole or not at all, readable by its owner only.

    Args:
        lm: with the adapter attached.
        folder: made where it is missing.
        shape: as ``attach`` or ``go_on`` returned it.
        extra: provenance for ``adapter_config.json``; mlx-lm ignores what it does not know.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    weights: dict[str, mx.array] = {}
    tree_flatten(lm.model.parameters(), destination=weights)
    weights = {name: weights[name] for name in weights if name.endswith(TRAINED)}
    draft = _draft(folder / f".{os.getpid()}.{WEIGHTS}")
    mx.save_safetensors(str(draft), weights)
    os.replace(draft, folder / WEIGHTS)
    config = {
        **extra,
        "fine_tune_type": shape.kind,
        "num_layers": shape.num_layers,
        "lora_parameters": shape.parameters,
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
    modules = _lora_modules(lm.model)
    try:
        detach(lm)
        yield
    finally:
        if modules:
            lm.model.update_modules(tree_unflatten(modules))


@contextmanager
def side(lm: LanguageModel, name: str) -> Iterator[LanguageModel]:
    """The model as ``base`` or as ``adapter`` while this is open."""
    if name == "adapter":
        yield lm
    else:
        with adapter_disabled(lm):
            yield lm


def detach(lm: LanguageModel) -> None:
    """Take LoRA away; the base layers come back as they were."""
    bases = [(name, module.linear) for name, module in _lora_modules(lm.model)]
    if bases:
        lm.model.update_modules(tree_unflatten(bases))
