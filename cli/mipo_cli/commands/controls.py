"""``mipo controls``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.options import ConfigFile, Json, Markdown, Sets, resolve, with_options
from mipo_cli.render import progress, show_beside, show_json


@with_options()
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="An evaluated run.")],
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    only: Annotated[
        str, typer.Option(help="Controls to train, comma-separated.")
    ] = "sft,missing,random,mixed,k4",
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Train what a sceptic asks for beside RUN, and compare: RUN/controls.json."""
    if as_json and as_markdown:
        raise typer.BadParameter("give --json or --markdown, not both")
    resolved = resolve(run, config, sets, flags)
    from mipo_mlx.pipeline.controls import control

    names = [name.strip() for name in only.split(",") if name.strip()]
    with progress() as bars:
        found = control(run, resolved, names, bars)
    if as_json:
        show_json(found.to_json())
    else:
        show_beside(found, as_markdown)
