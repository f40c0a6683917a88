"""``mipo reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mipo_cli.options import Json, Sets
from mipo_cli.render import progress, show_json
from mipo_cli.render_recipes import show_cells, show_dry_run, show_results
from mipo_mlx.config import parse_set
from mipo_mlx.errors import ConfigError

_DATA = "Folder with the data sets: DIR/RECIPE/FILE.jsonl (or .json, .csv, .parquet) is read "
_DATA += "instead of the hub's file of that name, as in DIR/gsm8k/train.jsonl."


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Recipe, or recipe/model: see --list.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show all recipes and stop.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Run every cell; with --model, every recipe once.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would need; fetch no data, no weights.")
    ] = False,
    model: Annotated[str, typer.Option("--model", help="In place of the paper's model.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Most users, prompts, problems; 0: the recipe's.")
    ] = 0,
    data: Annotated[str, typer.Option("--data", metavar="DIR", help=_DATA)] = "",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the run directories.")
    ] = Path("runs/reproduce"),
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Run the paper's experiments from recipes, with the paper's figures beside the result."""
    from mipo_mlx.pipeline import rehearse, reproduce

    if listed:
        rows = reproduce.table()
        return show_json({"cells": rows}) if as_json else show_cells(rows)
    if bool(name) == everything:
        raise ConfigError("one of NAME, --all and --list is needed.", "mipo reproduce --list")
    request = reproduce.Request(model, limit, data, out, dict(map(parse_set, sets or [])))
    cells = reproduce.all_cells(request) if everything else [reproduce.cell(name or "", request)]
    if dry_run:
        told = [rehearse.dry_run(cell) for cell in cells]
        return show_json({"cells": told}) if as_json else show_dry_run(told)
    with progress() as bars:
        results = reproduce.run_all(cells, bars) if everything else [reproduce.run(cells[0], bars)]
    if as_json:
        show_json({"results": [result.to_json() for result in results]})
    else:
        show_results(results)
    if any(result.error for result in results):
        raise typer.Exit(1)
