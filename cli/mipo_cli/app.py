"""The Typer application and the one place where errors become exit codes.

0 ok, 1 a MipoError, 2 wrong usage, 130 Ctrl-C. ``MIPO_DEBUG=1`` shows tracebacks, never locals.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from mipo_cli.commands import (
    arena,
    bench,
    check,
    compare,
    contexts,
    controls,
    doctor,
    evaluate,
    generate,
    report,
    reproduce,
    run,
    train,
)
from mipo_cli.help import Grouped
from mipo_mlx import __version__
from mipo_mlx.errors import MipoError, device_error

app = typer.Typer(
    name="mipo",
    help="A language model that uses what it knows about you: pairs, adapter, evidence.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.command,
    "generate": generate.command,
    "train": train.command,
    "eval": evaluate.command,
    "report": report.command,
    "compare": compare.command,
    "controls": controls.command,
    "arena": arena.command,
    "contexts": contexts.command,
    "check": check.command,
    "doctor": doctor.command,
    "bench": bench.command,
    "reproduce": reproduce.command,
}
for _name, _command in COMMANDS.items():
    app.command(_name, cls=Grouped)(_command)


def _version(value: bool) -> None:
    if value:
        mlx, mlx_lm = (version_of(package) for package in ("mlx", "mlx-lm"))
        typer.echo(f"mipo {__version__} (mlx {mlx}, mlx-lm {mlx_lm})")
        raise typer.Exit()


@app.callback()
def callback(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the versions of mipo, MLX and mlx-lm.",
        ),
    ] = False,
) -> None:
    """A language model that uses what it knows about you: pairs, adapter, evidence."""


def main() -> None:
    """Entry point of ``mipo``."""
    try:
        app()
    except MipoError as error:
        if os.environ.get("MIPO_DEBUG") == "1":
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:
            sys.stderr.write("stopped; finished steps are kept, the same command goes on\n")
        raise
    except Exception as error:
        if os.environ.get("MIPO_DEBUG") == "1":
            raise
        if isinstance(error, OSError) and error.strerror:
            sys.stderr.write(f"error: {error.filename or 'system'}: {error.strerror}\n")
            sys.exit(1)
        fault = device_error(error)
        if fault is not None:
            sys.stderr.write(f"error: {fault}\n")
            sys.exit(1)
        sys.stderr.write(
            f"internal error: {type(error).__name__}; MIPO_DEBUG=1 shows the traceback\n"
        )
        sys.exit(1)
