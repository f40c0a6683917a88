"""Options, each declared once, and one configuration from all layers."""

from __future__ import annotations

from mipo_mlx.config.options import (
    EMBEDDED_MISSING,
    EMBEDDED_PRESET,
    SECTIONS,
    DataConfig,
    EvalConfig,
    GenerateConfig,
    RunConfig,
    TrainConfig,
)
from mipo_mlx.config.resolve import (
    all_options,
    check_options,
    parse_set,
    read_toml,
    resolve,
    saved_config,
    text_settings,
    to_dict,
    to_toml,
)

__all__ = [
    "EMBEDDED_MISSING",
    "EMBEDDED_PRESET",
    "SECTIONS",
    "DataConfig",
    "EvalConfig",
    "GenerateConfig",
    "RunConfig",
    "TrainConfig",
    "all_options",
    "check_options",
    "parse_set",
    "read_toml",
    "resolve",
    "saved_config",
    "text_settings",
    "to_dict",
    "to_toml",
]
