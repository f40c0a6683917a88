"""Command-line options, made from ``mipo_mlx.config``: nothing is declared a second time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mipo_cli.help import HelpAll
from mipo_mlx import config as configuration
from mipo_mlx.config import RunConfig

ConfigFile = Annotated[
    Path | None, typer.Option("-c", "--config", help="TOML file of options.", metavar="FILE")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="One option as key=value.", metavar="KEY=VALUE")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Markdown = Annotated[
    bool, typer.Option("--markdown", help="Print the verdict and the table as Markdown on stdout.")
]


def allowed(item: Any) -> str:
    """Choices or range of an option, or nothing."""
    meta = item.metadata
    if meta["choices"]:
        return "|".join(meta["choices"])
    bounds = (meta["low"], meta["high"])
    if None in bounds:
        return ""
    return " to ".join(str(b) if isinstance(b, int) else f"{b:g}" for b in bounds)


def default(item: Any) -> str:
    """Default of an option, with the embedded model's own; nothing where it is empty."""
    preset = configuration.EMBEDDED_PRESET.get(item.name)
    text = "" if item.default == "" else str(item.default)
    if preset is None:
        return text
    missing = configuration.EMBEDDED_MISSING.get(item.name)
    more = "" if missing is None else f", with missing negatives {missing}"
    return f"{text}; embedded model: {preset}{more}"


def _help(item: Any) -> str:
    parts = [str(item.metadata["help"])]
    parts += [f"[{allowed(item)}]"] if allowed(item) else []
    parts += [f"[default: {default(item)}]"] if default(item) else []
    return " ".join(parts)


def flag(name: str, kind: type[Any]) -> str:
    """Command-line spelling of an option."""
    dashed = name.replace("_", "-")
    return f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"


def _parameter(name: str, item: Any, kind: type[Any]) -> inspect.Parameter:
    option = typer.Option(flag(name, kind), help=_help(item), show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def with_options(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these sections; it receives them as ``flags``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        table = configuration.all_options()
        names = [name for name, (section, _, _) in table.items() if section in sections]
        own = inspect.signature(command, eval_str=True).parameters
        kept = [item for name, item in own.items() if name != "flags"]

        def wrapped(**given: Any) -> None:
            given.pop("help_all", None)
            flags = {name: given.pop(name) for name in names}
            command(**given, flags=flags)

        wrapped.__doc__ = command.__doc__
        wrapped.__name__ = command.__name__
        wrapped.sections = sections  # type: ignore[attr-defined]
        show = inspect.Parameter(
            "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll
        )
        extra = [_parameter(name, table[name][1], table[name][2]) for name in names]
        parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in kept] + [
            *extra,
            show,
        ]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return wrapped

    return decorate


def resolve(
    run: Path | None, file: Path | None, sets: list[str] | None, flags: dict[str, Any]
) -> RunConfig:
    """One configuration: the run's own < TOML file < --set < flags."""
    layers: dict[str, Any] = (configuration.saved_config(run) if run else None) or {}
    if file is not None:
        layers.update(configuration.read_toml(file))
    layers.update(configuration.parse_set(item) for item in sets or [])
    return configuration.resolve(layers, flags)
