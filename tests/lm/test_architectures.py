"""A part of ``benchmarks/architectures.py``: models whose code is unlike Llama's."""

from __future__ import annotations

import pkgutil
from importlib.util import find_spec
from pathlib import Path

import mlx_lm.models
import pytest

from . import zoo
from .against_plain import examine

EXACTLY = (
    "afm7",  # layers that use another's keys
    "deepseek_v41",  # has no gradient
    "falcon_h1",
    "gemma3n",  # reads weights of linear layers
    "gemma4_text",  # blocks return keys and values
    "gpt_bigcode",  # takes its offset for a number
    "kimi_k25",  # its outer module goes another way than its backbone
    "llama4",  # attention by chunks
    "nemotron-nas",  # blocks without attention
    "qwen3_5",
)
ROUGHLY = (("mistral", "bf16"), ("qwen3_moe", "4 bits"))


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in EXACTLY), *ROUGHLY], ids=str
)
def test_whatever_is_not_refused_is_right(name: str, precision: str, tmp_path: Path) -> None:
    found = examine(name, precision, tmp_path)
    assert found.failures() == []
    assert found.path == "refused" or {"loss", "gradient"} <= found.cases.keys()


def test_every_architecture_is_here_or_said_to_be_left_out() -> None:
    def is_model(name: str) -> bool:
        spec = find_spec(f"mlx_lm.models.{name}")
        assert spec is not None and spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        return "class Model(" in text or "import Model" in text

    modules = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}
    here = {zoo.arguments(name)["model_type"] for name in zoo.NAMES}
    assert {name for name in modules if is_model(name)} == here | set(zoo.LEFT_OUT)
    assert len(here) >= 100
