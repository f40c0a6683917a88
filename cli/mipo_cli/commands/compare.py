"""``mipo compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mipo_cli.options import Json, Markdown
from mipo_cli.render import show_beside, show_json


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.")],
    resamples: Annotated[
        int, typer.Option(min=100, help="Bootstrap resamples of each interval.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Several runs in one table, with paired differences to the first."""
    if as_json and as_markdown:
        raise typer.BadParameter("give --json or --markdown, not both")
    from mipo_mlx.pipeline.compare import beside

    found = beside(runs, resamples=resamples, seed=seed)
    if as_json:
        show_json(found.to_json())
    else:
        show_beside(found, as_markdown)
