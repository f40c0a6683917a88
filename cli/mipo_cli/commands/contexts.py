"""``mipo contexts``."""

from __future__ import annotations

from typing import Annotated

import typer

from mipo_cli.options import Json
from mipo_cli.render import show_contexts, show_json
from mipo_mlx.config import DataConfig, all_options

_NOTES = all_options()["note_tokens"][1]
_NOTE_TOKENS: int = DataConfig.note_tokens


def command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files or folders of contexts.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="Whose tokenizer counts; only that is opened.")
    ] = "embedded",
    offline: Annotated[
        bool, typer.Option("--offline", help="Refuse the network, downloads included.")
    ] = False,
    note_tokens: Annotated[
        int, typer.Option("--note-tokens", min=0, help=_NOTES.metadata["help"])
    ] = _NOTE_TOKENS,
    as_json: Json = False,
) -> None:
    """Show which contexts files hold, in tokens; writes nothing and shows no text."""
    from mipo_mlx.pipeline import contexts

    summary = contexts.contexts(files, model=model, offline=offline, note_tokens=note_tokens)
    if as_json:
        show_json(summary)
    else:
        show_contexts(summary)
