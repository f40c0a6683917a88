"""``mipo run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.options import ConfigFile, Json, Sets, resolve, with_options
from mipo_cli.render import progress, show_json, show_report


@with_options("data", "generate", "train", "eval")
def command(
    flags: dict[str, Any],
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Run directory; default: a fresh one under runs/."),
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Generate, train, eval and report in one go; steps already done are skipped."""
    from mipo_mlx.run_dir.store import new_run_path

    folder = run if run is not None else new_run_path(Path("runs"))
    resolved = resolve(folder, config, sets, flags)
    from mipo_mlx import pipeline

    with progress() as bars:
        summary = pipeline.run.run(folder, resolved, bars)
    if as_json:
        show_json(summary.to_json())
    else:
        show_report(summary)
