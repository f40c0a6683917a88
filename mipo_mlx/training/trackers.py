"""Metrics for TensorBoard or Weights & Biases, when they are asked for: numbers only, no text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def tracker(name: str, run: Path) -> Iterator[Tell]:
    """What is told every step and its figures while this is open.

    Args:
        name: "" for nobody, ``tensorboard`` or ``wandb``.
        run: run directory; TensorBoard's files lie in its ``tensorboard/``.

    Raises:
        ConfigError: the package is not installed.
    """
    if not name:
        yield lambda step, values: None
        return
    package = _package(name)
    if name == "wandb":
        session = package.init(project="mipo", name=run.name, dir=str(run))
        try:
            yield lambda step, values: session.log(dict(values), step=step)
        finally:
            session.finish()
        return
    with package.SummaryWriter(str(run / "tensorboard"), flush_secs=10) as writer:

        def tell(step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        yield tell
