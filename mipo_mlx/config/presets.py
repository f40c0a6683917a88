"""Layers of options below what is given: models, ways to sample, runs from before an option."""

from __future__ import annotations

import math
from typing import Any

# What suits the embedded 1M model; a default layer of its own, below TOML and flags.
EMBEDDED_PRESET: dict[str, Any] = {
    "context_template": "bare",  # it was pretrained so
    "min_p": 0.0,
    "max_tokens": 48,
    "beta": 1.0,
    "learning_rate": 3e-4,
    "epochs": 2,
}

# Missing-context negatives reward any fact at all, and soon break copying: a gentler layer then.
EMBEDDED_MISSING: dict[str, Any] = {"learning_rate": 2e-5, "epochs": 1}

# What --sampling stands for; below options that are given by name.
SAMPLING_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"temperature": 0.1, "top_p": 0.9, "min_p": 0.0}
}

# What held before an option was there, for runs whose config.toml does not name it.
BEFORE: dict[str, Any] = {"context_template": "bare", "min_p": 0.0, "drop_truncated": True}

# Most parameters, a rate for LoRA of rank 8 and scale 20, and whether it was measured (at 135M).
RATES = ((3e8, 1e-4, True), (1e9, 5e-5, False), (4e9, 2e-5, False), (math.inf, 1e-5, False))


def rate_for(parameters: float) -> tuple[float, bool]:
    """A peak learning rate for a model of so many parameters, and whether it was measured."""
    return next((rate, measured) for most, rate, measured in RATES if parameters <= most)
