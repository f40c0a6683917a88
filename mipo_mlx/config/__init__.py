"""Options, each declared once, and one configuration from all layers."""

from __future__ import annotations

from mipo_mlx.config.data import DataConfig
from mipo_mlx.config.options import (
    SECTIONS,
    EvalConfig,
    GenerateConfig,
    RunConfig,
    TrainConfig,
)
from mipo_mlx.config.presets import EMBEDDED_MISSING, EMBEDDED_PRESET, rate_for
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
    "rate_for",
    "read_toml",
    "resolve",
    "saved_config",
    "text_settings",
    "to_dict",
    "to_toml",
]
