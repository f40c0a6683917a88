"""``mipo bench``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mipo_cli.options import Json
from mipo_cli.render import progress, show_json

_SHAPE = "Random weights of this shape, several with commas: tiny, smollm2-135m, qwen2.5-0.5b, "
_SHAPE += "qwen2.5-1.5b, qwen2.5-7b; without it what suits the device."


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def command(
    shape: Annotated[str, typer.Option("--shape", metavar="NAME,...", help=_SHAPE)] = "",
    model: Annotated[
        str, typer.Option("--model", help="Open this model instead: a folder or a hub id.")
    ] = "",
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="NAME,...", help="Of shapes: bf16, 4bit, fp32."),
    ] = "",
    work: Annotated[
        str, typer.Option("--work", metavar="NAME,...", help="Batches: S1, S2, S3; default all.")
    ] = "",
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, max=10_000.0, help="About how long it may take.")
    ] = 5.0,
    memory_limit: Annotated[
        float, typer.Option("--memory-limit", min=0.0, help="GiB to use; 0: 70% of the device's.")
    ] = 0.0,
    offline: Annotated[
        bool, typer.Option("--offline", help="Refuse the network, downloads included.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure sampling and a training step on this machine; prints Markdown to paste."""
    from mipo_mlx.bench import block
    from mipo_mlx.pipeline.bench import BenchRequest, bench

    request = BenchRequest(
        _names(shape), model, _names(precision), _names(work), minutes, memory_limit, offline
    )
    with progress() as bars:
        result = bench(request, bars)
    if as_json:
        show_json(block.plain_data(result))
    else:
        sys.stdout.write(block.markdown(result))
