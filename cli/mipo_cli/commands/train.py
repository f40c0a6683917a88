"""``mipo train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.options import ConfigFile, Json, Sets, resolve, with_options
from mipo_cli.render import progress, show_json, show_stats


@with_options("data", "generate", "train")
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter on the pairs: RUN/adapter/."""
    resolved = resolve(run, config, sets, flags)
    from mipo_mlx import pipeline

    with progress() as bars:
        summary = pipeline.train.train(run, resolved, bars)
    if summary.get("rank"):  # another machine speaks for this one
        return
    if as_json:
        show_json(summary)
    else:
        show_stats("train", summary)
