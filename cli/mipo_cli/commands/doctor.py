"""``mipo doctor``."""

from __future__ import annotations

from typing import Any

import typer

from mipo_cli.options import ConfigFile, Json, Sets, resolve, with_options
from mipo_cli.render import show_doctor, show_json


@with_options("data", "generate", "train")
def command(
    flags: dict[str, Any],
    config: ConfigFile = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has, and whether model and contexts fit; downloads no weights."""
    resolved = resolve(None, config, sets, flags)
    from mipo_mlx.pipeline import doctor

    summary = {"machine": doctor.machine(), "training": doctor.fits(resolved)}
    if as_json:
        show_json(summary)
    else:
        show_doctor(summary)
    if not summary["training"]["fits"]:
        raise typer.Exit(1)
