"""``mipo generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.options import ConfigFile, Json, Sets, resolve, with_options
from mipo_cli.render import progress, show_json, show_stats


@with_options("data", "generate")
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what it would cost, after a probe; write nothing."),
    ] = False,
    pilot: Annotated[
        int | None,
        typer.Option(
            "--pilot", metavar="N", min=1, help="Make N pairs and sum them up; write nothing."
        ),
    ] = None,
) -> None:
    """Make preference pairs from contexts and prompts: RUN/pairs.jsonl."""
    resolved = resolve(run, config, sets, flags)
    from mipo_mlx import pipeline
    from mipo_mlx.pipeline.pilot import dry_run as rehearse
    from mipo_mlx.pipeline.pilot import pilot as sample

    with progress() as bars:
        if dry_run:
            name, summary = "dry run", rehearse(resolved, bars)
        elif pilot is not None:
            name, summary = "pilot", sample(resolved, pilot, bars)
        else:
            name, summary = "generate", pipeline.generate.generate(run, resolved, bars)
    if as_json:
        show_json(summary)
    else:
        show_stats(name, summary)
