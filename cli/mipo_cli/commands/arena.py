"""``mipo arena``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from mipo_cli.options import ConfigFile, Json, Sets, resolve, with_options
from mipo_cli.render import show_json


@with_options()
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Vote here instead of in a browser.")
    ] = False,
    export: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option("--export", help="Print the votes so far, without texts, and end."),
    ] = None,
) -> None:
    """Vote blind between base and adapter, on a page only this machine sees: RUN/votes.jsonl."""
    resolved = resolve(run, config, sets, flags)
    from mipo_mlx.evaluation.human_votes import open_arena
    from mipo_mlx.run_dir.lock import writing

    arena = open_arena(run, resolved.data.seed)
    if export is not None:
        sys.stdout.write(arena.export(export))
        return
    with writing("arena"):
        if terminal:
            from mipo_cli.arena.terminal import play

            play(arena, Console(stderr=as_json, highlight=False))
        else:
            from mipo_cli.arena.app import serve

            serve(arena, _announce)
    if as_json:
        show_json(asdict(arena.summary()))
        return
    from mipo_cli.arena.terminal import show_result

    show_result(arena.summary(), Console(highlight=False))


def _announce(url: str) -> None:
    sys.stderr.write(f"vote at {url}\nCtrl-C ends the arena; every vote is kept\n")
    sys.stderr.flush()
