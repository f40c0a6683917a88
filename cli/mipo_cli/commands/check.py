"""``mipo check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mipo_cli.options import Json
from mipo_cli.render import show_json


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    as_json: Json = False,
) -> None:
    """Say whether the files of RUN are what its steps wrote, and what to do; writes nothing."""
    from mipo_mlx.pipeline.check import check

    faults = check(run)
    if as_json:
        show_json({"run": str(run), "faults": faults})
    else:
        for fault in faults:
            typer.echo(f"{fault['file']} {fault['what']}: {fault['hint']}")
        if not faults:
            typer.echo(f"{run}: all files are as they were written")
    if faults:
        raise typer.Exit(1)
