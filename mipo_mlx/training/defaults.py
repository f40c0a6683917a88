"""What a training takes from its model where nothing is said."""

from __future__ import annotations

import logging
from dataclasses import replace

from mipo_mlx.config import TrainConfig, rate_for
from mipo_mlx.models.architecture import total_parameters
from mipo_mlx.models.load import LanguageModel

log = logging.getLogger("mipo_mlx")


def with_rate(lm: LanguageModel, config: TrainConfig) -> TrainConfig:
    """With a learning rate for the model's size, where none was given."""
    if config.learning_rate:
        return config
    size = total_parameters(lm.model)
    rate, measured_at = rate_for(size)
    if not measured_at:
        log.info("learning rate %g: a guess for %.1fB parameters", rate, size / 1e9)
    return replace(config, learning_rate=rate)
