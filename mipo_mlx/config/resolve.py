"""One configuration from its layers, checked. TOML in and out.

Precedence: defaults < the embedded model's preset < TOML file < ``--set`` and flags.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from mipo_mlx.config.data import DataConfig
from mipo_mlx.config.options import SECTIONS, RunConfig
from mipo_mlx.config.presets import BEFORE, EMBEDDED_MISSING, EMBEDDED_PRESET, SAMPLING_PRESETS
from mipo_mlx.errors import ConfigError


@functools.cache
def all_options() -> dict[str, tuple[str, dataclasses.Field[Any], type[Any]]]:
    """All options by name: ``name -> (section, field, type)``. Names are unique across sections."""
    table = {}
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for item in dataclasses.fields(cls):
            table[item.name] = (section, item, hints[item.name])
    return table


def _checked(name: str, value: Any, source: str) -> Any:
    """Value of the declared type and range, or a ConfigError that names its source."""
    _, item, kind = all_options()[name]
    meta = item.metadata
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{source}: {name} must be {kind.__name__}, not {value!r}.", meta["help"])
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(
            f"{source}: {name} must be one of {', '.join(meta['choices'])}, not {value!r}.",
            meta["help"],
        )
    low, high = meta["low"], meta["high"]
    if low is not None and not low <= value <= high:
        raise ConfigError(
            f"{source}: {name} must be in {low:g} to {high:g}, not {value}.", meta["help"]
        )
    return value


def _known(name: str, source: str) -> str:
    table = all_options()
    if name in table:
        return name
    close = difflib.get_close_matches(name, list(table), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"options: {', '.join(sorted(table))}"
    raise ConfigError(f"{source}: unknown option {name!r}.", hint)


def read_toml(path: Path) -> dict[str, Any]:
    """Options of a TOML file, flat or under ``[data] [generate] [train] [eval]``.

    Raises:
        ConfigError: the file is missing, is no TOML, or holds an unknown or ill-typed option;
            all faults of the file are told at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).", "check -c") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.", "see docs/cli.md") from error
    return check_options(raw, path, text)


def check_options(raw: Mapping[str, Any], path: Path, text: str) -> dict[str, Any]:
    """Options of a parsed TOML table, flat or by section, checked.

    Args:
        raw: the table.
        path: its file, and ``text``: what stands in it, for error messages with lines.

    Raises:
        ConfigError: as ``read_toml`` does, for all faults at once.
    """
    flat: dict[str, Any] = {}
    faults: list[ConfigError] = []
    for key, value in raw.items():
        items = value.items() if key in SECTIONS and isinstance(value, dict) else [(key, value)]
        for name, item in items:
            where = f"{path}:{_line_of(text, name)}"
            try:
                known = _known(name, where)
                flat[known] = _checked(known, item, where)
            except ConfigError as error:
                faults.append(error)
    if faults:
        raise ConfigError(
            "\n".join(fault.message for fault in faults), "; ".join(fault.hint for fault in faults)
        )
    return flat


def _line_of(text: str, name: str) -> int:
    """Line (from 1) on which a key stands in TOML text; 1 when it cannot be found."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.split("=")[0].strip().strip('"') == name or line.strip().startswith(f"[{name}"):
            return number
    return 1


def parse_set(assignment: str) -> tuple[str, Any]:
    """One ``--set key=value``; the value is read as the option's type."""
    name, equals, text = assignment.partition("=")
    name = name.strip().rpartition(".")[2].replace("-", "_")
    if not equals:
        raise ConfigError(f"--set {assignment}: no '='.", "write --set key=value")
    _, item, kind = all_options()[_known(name, "--set")]
    try:
        value: Any = text if kind is str else json.loads(text.strip())
    except json.JSONDecodeError as error:
        message = f"--set {name}: must be {kind.__name__}, not {text!r}."
        raise ConfigError(message, item.metadata["help"]) from error
    return name, _checked(name, value, "--set")


def resolve(
    toml: Mapping[str, Any] | None = None, flags: Mapping[str, Any] | None = None
) -> RunConfig:
    """One configuration from its layers; None among ``flags`` means "not given".

    Raises:
        ConfigError: an unknown name, a wrong type or a value out of range.
    """
    given: dict[str, Any] = {}
    for layer in (toml or {}, {k: v for k, v in (flags or {}).items() if v is not None}):
        given |= SAMPLING_PRESETS.get(layer.get("sampling", ""), {}) | dict(layer)
    model = given.get("model", DataConfig.model)
    layers = dict(EMBEDDED_PRESET) if model == "embedded" else {}
    if model == "embedded" and given.get("negatives") == "missing":
        layers.update(EMBEDDED_MISSING)
    layers.update(
        {_known(key, "option"): _checked(key, value, "option") for key, value in given.items()}
    )
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    table = all_options()
    for key, value in layers.items():
        sections[table[key][0]][key] = value
    return RunConfig(**{name: cls(**sections[name]) for name, cls in SECTIONS.items()})


def to_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Nested plain dict of a configuration, by section."""
    return dataclasses.asdict(config)


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML that ``read_toml`` reads back to the same values."""
    lines: list[str] = []
    for section, values in to_dict(config).items():
        lines.append(f"[{section}]")
        lines.extend(
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
        )
        lines.append("")
    return "\n".join(lines)


def text_settings(config: RunConfig) -> dict[str, Any]:
    """Options of sampling that have a say in what is written."""
    settings = dataclasses.asdict(config.generate)
    for name in ("generate_batch_size", "memory_limit"):
        settings.pop(name)
    return settings


def saved_config(run: Path) -> dict[str, Any] | None:
    """Flat options of an earlier step of this run, or None for a fresh directory.

    Options that were not there yet are what was done then.
    """
    path = run / "config.toml"
    return {**BEFORE, **read_toml(path)} if path.is_file() else None
