"""Metrics for TensorBoard or Weights & Biases, when they are asked for: numbers only, no text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mipo_mlx.errors import ConfigError

Tell = Callable[[int, Mapping[str, float]], None]
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise ConfigError(
            f"--report-to {name} needs the package {PACKAGES[name]}, which is not installed.",
            f"pip install {PACKAGES[name]}",
        ) from error


def tracker(name: str, run: Path) -> Tell:
    """What is told every step and its figures.

    Args:
        name: "" for nobody, ``tensorboard`` or ``wandb``.
        run: run directory; TensorBoard's files lie in its ``tensorboard/``.

    Raises:
        ConfigError: the package is not installed.
    """
    if not name:
        return lambda step, values: None
    package = _package(name)
    if name == "wandb":
        session = package.init(project="mipo", name=run.name, dir=str(run))
        return lambda step, values: session.log(dict(values), step=step)
    writer = package.SummaryWriter(str(run / "tensorboard"))

    def tell(step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return tell
