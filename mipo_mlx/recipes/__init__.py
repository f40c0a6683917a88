"""The paper's experiments as recipes, a TOML file a data set; ``common.toml`` is of all of them.

A recipe is a list of statements: what the paper or its official code states, what is not known, and
what was chosen here instead, and why. Options of ``mipo`` stand only below the statement that they
follow from, under the names that they have in ``config.toml``. A cell is a recipe with one of the
paper's models. ``fixtures`` holds a few invented rows of each data set, in its published columns.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mipo_mlx.config import check_options
from mipo_mlx.errors import ConfigError

FOLDER = Path(__file__).parent
FIXTURES = FOLDER / "fixtures"
COMMON = "common.toml"
KINDS = ("stated", "unknown", "chosen")
USES = ("contexts", "prompts", "task")

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """One of the paper's models.

    Attributes:
        name: in the names of cells.
        id: on the hub, in bf16 as in the paper.
        smaller: a quantized one on the hub, for less memory.
        parameters: how many, about.
        access: whether a licence has to be accepted first.
    """

    name: str
    id: str
    smaller: str
    parameters: float
    access: str


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        name: what ``--data`` finds it by.
        use: some of ``USES``.
        address: on the hub.
        rows: how many are published.
        licence: of the rows.
        users: who speak in them, where they are fewer than the rows; 0: a user a row.
        bytes: of the download; 0: not known.
    """

    name: str
    use: tuple[str, ...]
    address: str
    rows: int
    licence: str
    users: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Statement:
    """One thing that is stated, unknown or chosen.

    Attributes:
        text: a sentence or two.
        origin: of what is stated: where it is known from.
        why: of what is chosen: the reason.
        options: of ``mipo``, that follow from it.
    """

    text: str
    origin: str = ""
    why: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reported:
    """A figure that the paper gives.

    Attributes:
        text: as it is given.
        origin: where it is known from.
        models: whose it is, by name; empty: all.
        metric: of ``eval.json``, where it measures the same thing.
        side: ``base``, ``adapter`` or ``delta``.
        value: in the metric's unit.
    """

    text: str
    origin: str
    models: tuple[str, ...] = ()
    metric: str = ""
    side: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """One data set of the paper, with all of its models.

    Attributes:
        name: of its file.
        title: of the data set.
        objective: ``context`` or ``prompt``.
        measures: metrics of ``eval.json`` that a table of results shows, as far as measured.
        models: whose cells they are.
        files: of the data set.
        stated, unknown, chosen: statements; those of all recipes stand first.
        reported: figures of the paper.
    """

    name: str
    title: str
    objective: str
    measures: tuple[str, ...]
    models: tuple[Model, ...]
    files: tuple[DataFile, ...]
    stated: tuple[Statement, ...]
    unknown: tuple[Statement, ...]
    chosen: tuple[Statement, ...]
    reported: tuple[Reported, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Flat options: what is chosen wins over what is stated, own statements over common."""
        return {name: value for name, (value, _) in self.origins.items()}

    @property
    def origins(self) -> dict[str, tuple[Any, str]]:
        """Option -> its value, and where it comes from."""
        found: dict[str, tuple[Any, str]] = {"objective": (self.objective, "stated: abstract")}
        for kind, statements in (("stated", self.stated), ("chosen", self.chosen)):
            for statement in statements:
                told = f"{kind}: {statement.origin or statement.why}"
                found.update({name: (value, told) for name, value in statement.options.items()})
        return found

    def reported_of(self, model: str) -> list[Reported]:
        """Figures of one model by name; those of this model alone go first."""
        mine = [item for item in self.reported if not item.models or model in item.models]
        return sorted(mine, key=lambda item: not item.models)


def _record(kind: type[T], raw: Mapping[str, Any], path: Path) -> T:
    """A dataclass from a TOML table.

    Raises:
        ConfigError: a key is unknown or missing.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            close = difflib.get_close_matches(key, list(fields), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(fields)}"
            raise ConfigError(f"{path}: unknown key {key!r}.", hint)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    try:
        return kind(**values)
    except TypeError as error:
        named = kind.__name__.lower()
        raise ConfigError(f"{path}: a {named} lacks a key ({error}).", "see recipes") from error


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    text = path.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.", "see recipes") from error


def _statements(kind: str, sources: Iterable[tuple[Path, str, Any]]) -> tuple[Statement, ...]:
    """Of all files, in order, with checked options."""
    made = []
    for path, text, raw in sources:
        for table in raw.get(kind, ()):
            options = check_options(table.get("options", {}), path, text)
            made.append(_record(Statement, {**table, "options": options}, path))
    return tuple(made)


def _of(objective: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of ``common.toml`` that hold of an objective."""

    def mine(table: Mapping[str, Any]) -> bool:
        return bool(table.get("objective", objective) == objective)

    return {
        key: [
            {k: v for k, v in table.items() if k != "objective"} for table in tables if mine(table)
        ]
        for key, tables in raw.items()
    }


def read_recipe(path: Path) -> Recipe:
    """A recipe with what it shares with all others, which stands in ``common.toml`` beside it.

    Raises:
        ConfigError: a key or option is unknown, missing or out of range.
    """
    own, text = _parse(path)
    objective = own.get("objective", "")
    if objective not in ("context", "prompt"):
        raise ConfigError(f"{path}: objective must be context or prompt.", "see recipes")
    shared_path = path.parent / COMMON
    shared, shared_text = _parse(shared_path)
    shared = _of(objective, shared)
    sources = [(shared_path, shared_text, shared), (path, text, own)]
    lists = {
        "models": [_record(Model, raw, shared_path) for raw in shared["models"]],
        "files": [_record(DataFile, raw, path) for raw in own.pop("files", [])],
        "reported": [
            _record(Reported, raw, where)
            for where, _, part in sources
            for raw in part.get("reported", [])
        ],
    }
    statements = {kind: _statements(kind, sources) for kind in KINDS}
    plain = {key: value for key, value in own.items() if key not in (*KINDS, "reported")}
    return _record(Recipe, {"name": path.stem, **plain, **lists, **statements}, path)


@functools.cache
def read_recipes() -> dict[str, Recipe]:
    """All recipes of the package by name."""
    paths = sorted(path for path in FOLDER.glob("*.toml") if path.name != COMMON)
    return {path.stem: read_recipe(path) for path in paths}


def find(name: str) -> tuple[Recipe, Model | None]:
    """The recipe ``NAME``, or the cell ``NAME/MODEL`` with its model.

    Raises:
        ConfigError: there is none; the nearest names are told.
    """
    recipes = read_recipes()
    recipe, _, model = name.partition("/")
    cells = {f"{r.name}/{m.name}": (r, m) for r in recipes.values() for m in r.models}
    if name in cells:
        return cells[name]
    if recipe in recipes and not model:
        return recipes[recipe], None
    close = difflib.get_close_matches(name, [*cells, *recipes], n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"{name!r} is no recipe.", hint + "'mipo reproduce --list' shows all")
