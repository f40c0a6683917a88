"""``mipo eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.options import ConfigFile, Json, Sets, resolve, with_options
from mipo_cli.render import progress, show_json, show_stats


@with_options("data", "generate", "eval")
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Compare base and adapter on held-out users and prompts: RUN/eval.json."""
    resolved = resolve(run, config, sets, flags)
    from mipo_mlx import pipeline

    with progress() as bars:
        result = pipeline.evaluate.evaluate(run, resolved, bars)
    if as_json:
        show_json(result.to_json())
    else:
        from mipo_mlx.reporting.format import moved

        show_stats("eval", {name: moved(row) for name, row in result.metrics.items()})
