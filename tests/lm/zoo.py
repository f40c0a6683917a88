"""Small random models of mlx-lm's architectures, as ``zoo.toml`` describes them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

_TABLES = tomllib.loads(Path(__file__).with_name("zoo.toml").read_text(encoding="utf-8"))
COMMON: dict[str, Any] = _TABLES.pop("common")
LEFT_OUT: dict[str, str] = _TABLES.pop("left_out")  # module of mlx_lm.models -> why
NAMES = tuple(sorted(_TABLES))
NOISE = 0.15  # standard deviation of what is added to every weight


def module_of(name: str) -> Any:
    """The module of ``mlx_lm.models`` that makes it."""
    return importlib.import_module(f"mlx_lm.models.{_TABLES[name].get('module', name)}")


def arguments(name: str) -> dict[str, Any]:
    """Its ``config.json``: of [common] only what the module's ``ModelArgs`` know."""
    table = dict(_TABLES[name])
    model_type = table.pop("module", name)
    if "text_config" in table:
        table["text_config"] = {**COMMON, **table["text_config"]}
    known = {field.name for field in dataclasses.fields(module_of(name).ModelArgs)}
    common = {key: value for key, value in COMMON.items() if key in known}
    return {**common, **table, "model_type": model_type}


def build(name: str, seed: int = 0, noise: float = NOISE) -> Any:
    """A random model in fp32 whose next token is far from uniform, and not certain."""
    module = module_of(name)
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(arguments(name)))
    model.update(
        tree_map(
            lambda array: (
                array + noise * mx.random.normal(array.shape)
                if mx.issubdtype(array.dtype, mx.floating)
                else array
            ),
            model.parameters(),
        )
    )
    mx.eval(model.parameters())
    return model.eval()


def cast(model: Any, dtype: mx.Dtype) -> None:
    """As mlx-lm converts: all floating numbers but what the model wants in fp32."""
    may = getattr(model, "cast_predicate", lambda _: True)

    def one(path: str, array: mx.array) -> mx.array:
        floating = mx.issubdtype(array.dtype, mx.floating)
        return array.astype(dtype) if floating and (dtype == mx.float32 or may(path)) else array

    model.update(tree_map_with_path(one, model.parameters()))


def save(folder: Path, name: str, precision: str = "fp32", ends: int | list[int] = 2) -> None:
    """Weights and configuration as ``mlx_lm.convert`` leaves them; ``ends`` end a turn."""
    from mlx_lm.utils import quantize_model

    model, config = build(name), arguments(name)
    if precision != "fp32":
        cast(model, mx.bfloat16)
    if precision == "4 bits":
        with contextlib.redirect_stdout(io.StringIO()):
            model, config = quantize_model(model, config, 32, 4)
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": ends}))
