"""``mipo report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.options import ConfigFile, Json, Markdown, Sets, resolve, with_options
from mipo_cli.render import progress, show_json, show_markdown, show_report


@with_options()
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Show the results of eval; write RUN/report.html, RUN/report.json and RUN/report.md."""
    if as_json and as_markdown:
        raise typer.BadParameter("give --json or --markdown, not both")
    resolved = resolve(run, config, sets, flags)
    from mipo_mlx import pipeline

    with progress() as bars:
        summary = pipeline.report.report(run, resolved, bars)
    if as_json:
        show_json(summary.to_json())
    elif as_markdown:
        show_markdown(summary)
    else:
        show_report(summary)
