"""Command-line options, made from ``mipo_mlx.config``: nothing is declared a second time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_mlx import config as configuration
from mipo_mlx.config import RunConfig

ConfigFile = Annotated[
    Path | None, typer.Option("-c", "--config", help="TOML file of options.", metavar="FILE")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="One option as key=value.", metavar="KEY=VALUE")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def _help(item: Any) -> str:
    meta = item.metadata
    text = str(meta["help"])
    preset = configuration.EMBEDDED_PRESET.get(item.name)
    default = "" if item.default == "" else f" [default: {item.default}"
    if default and preset is not None:
        default += f"; embedded model: {preset}"
    allowed = f" [{'|'.join(meta['choices'])}]" if meta["choices"] else ""
    if meta["low"] is not None:
        allowed = f" [{meta['low']:g} to {meta['high']:g}]"
    return text + allowed + (f"{default}]" if default else "")


def _parameter(name: str, item: Any, kind: type[Any]) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flag += f"/--no-{name.replace('_', '-')}"
    option = typer.Option(flag, help=_help(item), show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def with_options(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these sections; it receives them as ``flags``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        table = configuration.options()
        names = [name for name, (section, _, _) in table.items() if section in sections]
        own = inspect.signature(command, eval_str=True).parameters
        kept = [item for name, item in own.items() if name != "flags"]

        def wrapped(**given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            command(**given, flags=flags)

        wrapped.__doc__ = command.__doc__
        wrapped.__name__ = command.__name__
        extra = [_parameter(name, table[name][1], table[name][2]) for name in names]
        parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in kept] + extra
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return wrapped

    return decorate


def resolve(
    run: Path, file: Path | None, sets: list[str] | None, flags: dict[str, Any]
) -> RunConfig:
    """One configuration: the run's own < TOML file < --set < flags."""
    layers: dict[str, Any] = {}
    saved = run / "config.toml"
    if saved.is_file():
        layers.update(configuration.read_toml(saved))
    if file is not None:
        layers.update(configuration.read_toml(file))
    layers.update(configuration.parse_set(item) for item in sets or [])
    return configuration.resolve(layers, flags)
