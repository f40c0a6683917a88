"""MIPO on Apple Silicon: preference pairs from contrasted contexts, DPO on LoRA, honest evaluation.

Paper: Nam, Li, Jaques, "Maximizing Mutual Information Between Prompt and Response Improves LLM
Performance With No Additional Data", arXiv 2603.19294.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mipo_mlx._blas import load_openblas

if TYPE_CHECKING:
    from mipo_mlx.errors import MipoError
    from mipo_mlx.pipeline.library import (
        evaluate,
        generate_pairs,
        load_model,
        read_contexts,
        read_prompts,
        run,
        save_adapter,
        split,
        train,
    )
    from mipo_mlx.results import EvalResult, MetricRow
    from mipo_mlx.training.objectives import (
        DPO,
        IPO,
        MIPO,
        SAMI,
        SFT,
        Custom,
        Hinge,
        InfoNCE,
        Scores,
    )
    from mipo_mlx.types import Context, PreferencePair, Prompt, Response

__version__ = "0.1.0"

load_openblas()  # before anything imports mlx.core

_HOMES = {  # whatever is asked for is imported then, and MLX with it
    "mipo_mlx.errors": ("MipoError",),
    "mipo_mlx.pipeline.library": (
        *("evaluate", "generate_pairs", "load_model", "read_contexts", "read_prompts", "run"),
        *("save_adapter", "split", "train"),
    ),
    "mipo_mlx.results": ("EvalResult", "MetricRow"),
    "mipo_mlx.training.objectives": (
        *("DPO", "IPO", "MIPO", "SAMI", "SFT", "Custom", "Hinge", "InfoNCE", "Scores"),
    ),
    "mipo_mlx.types": ("Context", "PreferencePair", "Prompt", "Response"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DPO",
    "IPO",
    "MIPO",
    "SAMI",
    "SFT",
    "Context",
    "Custom",
    "EvalResult",
    "Hinge",
    "InfoNCE",
    "MetricRow",
    "MipoError",
    "PreferencePair",
    "Prompt",
    "Response",
    "Scores",
    "evaluate",
    "generate_pairs",
    "load_model",
    "read_contexts",
    "read_prompts",
    "run",
    "save_adapter",
    "split",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
