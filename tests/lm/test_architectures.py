"""A part of ``benchmarks/architectures.py``: models whose code is unlike Llama's."""

from __future__ import annotations

import pkgutil
from importlib.util import find_spec
from pathlib import Path

import mlx_lm.models
import pytest

from . import zoo
from .against_plain import examine

SINGLY = "unshared, sampled singly"
CASES = {
    ("afm7", "fp32"): SINGLY,  # layers that use another's keys count positions by columns
    ("deepseek_v41", "fp32"): f"{SINGLY}, not trained",  # its code has no gradient
    ("gemma3n", "fp32"): "shared, head whole",  # reads weights of linear layers
    ("gemma4_text", "fp32"): "shared",  # blocks return keys and values
    ("gpt_bigcode", "fp32"): SINGLY,  # takes its offset for a number
    ("kimi_k25", "fp32"): "shared",  # its outer module goes another way than its backbone
    ("llama4", "fp32"): SINGLY,  # attention by chunks
    ("nemotron-nas", "fp32"): "shared",  # blocks without attention
    ("mistral", "bf16"): "shared",
    ("mistral4", "fp32"): "shared",  # works on scores where there is a single token
    ("qwen3_moe", "4 bits"): "shared",
}


@pytest.mark.parametrize(("name", "precision"), CASES, ids=str)
def test_numbers_are_those_of_the_plain_forward_pass(
    name: str, precision: str, tmp_path: Path
) -> None:
    found = examine(name, precision, tmp_path)
    assert found.failures() == []
    assert found.path == CASES[name, precision]
    assert {"scoring", "sampling", "gradient"} <= found.cases.keys()


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
