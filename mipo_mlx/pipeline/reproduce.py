"""``mipo reproduce``: a recipe with a model and data becomes a run, the paper's figures beside it.

With the embedded model and no data of one's own, the invented rows in the package are read: that
shows that a recipe runs, not what the paper found, and results say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mipo_mlx import pipeline
from mipo_mlx.config import EMBEDDED_MISSING, EMBEDDED_PRESET, RunConfig, all_options, resolve
from mipo_mlx.errors import ConfigError, DataError, MipoError
from mipo_mlx.recipes import FIXTURES, Model, Recipe, Reported, find, read_recipes
from mipo_mlx.results import Json, MetricRow
from mipo_mlx.run_dir.store import RunStore
from mipo_mlx.types import Progress, silent

EMBEDDED = "embedded"
ENDINGS = (".jsonl", ".json", ".csv", ".parquet", "")  # of a file of --data; a folder has none
FEWEST = 8  # users, prompts and problems of --limit, half of which may be held out
HELD = 4  # at least so many are held out under --limit
RESULT = "reproduce.json"
OWN = {"model": "--model", "contexts": "--data", "prompts": "--data", "tasks": "--data"}
INVENTED = "fixtures: shows that the recipe runs, not what the paper found"

# Beside its preset: its window is short, and worked sums do not fit it.
SMALL = {"task_max_tokens": 48, "problem_prompts": "ours", "task_prompts": "ours"}


@dataclass(frozen=True)
class Request:
    """What is to be done with recipes.

    Attributes:
        model: in place of the cell's own; empty: its own.
        limit: most users, prompts and problems of each task; 0: as the recipe has it.
        data: folder with the data sets' files; empty: the hub, or with the embedded model the
            invented rows of the package.
        out: folder of the run directories.
        given: options of ``mipo`` that go before all others.
    """

    model: str = ""
    limit: int = 0
    data: str = ""
    out: Path = Path("runs/reproduce")
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A recipe as it will be run.

    Attributes:
        recipe: it.
        model: of the paper's models, whole or quantized, or None where another stands in.
        config: resolved.
        run: its directory.
        invented: whether the data are the invented rows of the package.
        origins: option -> where its value comes from; those at mipo's default are left out.
        notes: what departs from the recipe.
    """

    recipe: Recipe
    model: Model | None
    config: RunConfig
    run: Path
    invented: bool
    origins: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """``prism/qwen2.5-1.5b``, or ``prism`` with a model of one's own."""
        return f"{self.recipe.name}/{self.model.name}" if self.model else self.recipe.name

    @property
    def reported(self) -> list[Reported]:
        """The paper's figures for it; none where the rows are invented."""
        named = self.model.name if self.model else ""
        return [] if self.invented else self.recipe.reported_of(named)


def table() -> list[Json]:
    """All cells: model, data set, objective, and all that is stated, unknown, chosen, reported."""
    return [
        {
            "cell": f"{recipe.name}/{model.name}",
            "model": model.id,
            "access": model.access,
            "data": recipe.title,
            "objective": recipe.objective,
            "stated": [f"{item.text} [{item.origin}]" for item in recipe.stated],
            "unknown": [item.text for item in recipe.unknown],
            "chosen": [f"{item.text} {item.why}" for item in recipe.chosen],
            "reported": [f"{r.text} [{r.origin}]" for r in recipe.reported_of(model.name)],
        }
        for recipe in read_recipes().values()
        for model in recipe.models
    ]


def _found(folder: Path, recipe: Recipe) -> dict[str, str]:
    """File name -> ``DIR/RECIPE/NAME`` with one of ``ENDINGS``.

    Raises:
        DataError: files are missing; all are named.
    """
    places: dict[str, str] = {}
    missing = []
    for file in recipe.files:
        stem = folder / recipe.name / file.name
        tried = [stem.with_name(stem.name + ending) for ending in ENDINGS]
        here = next((path for path in tried if path.exists()), None)
        if here is None:
            missing.append(
                f"{stem}: no such file, with the ending .jsonl, .json, .csv or .parquet."
            )
        else:
            places[file.name] = str(here)
    if missing:
        raise DataError("\n".join(missing), f"put {recipe.title} there, or leave --data out")
    return places


def _used(recipe: Recipe, places: Mapping[str, str]) -> dict[str, Any]:
    """Options that name the files."""
    named: dict[str, Any] = {}
    for file in recipe.files:
        for use in file.use:
            place = places[file.name]
            named.update({"tasks": f"{recipe.name}={place}"} if use == "task" else {use: place})
    return named


def _least(value: int, limit: int) -> int:
    """The smaller of two limits, of which 0 is none."""
    return min(value, limit) if value else limit


def _limited(values: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Options under ``--limit``; so much is held out that there is something to measure."""
    known = all_options()
    now = {name: values.get(name, item.default) for name, (_, item, _) in known.items()}
    capped = {
        name: _least(now[name], limit)
        for name in ("user_limit", "prompt_limit", "task_limit", "eval_contexts")
    }
    share = {n: max(now[n], HELD / limit) for n in ("held_out_users", "held_out_prompts")}
    return {**capped, **share}


def _slug(model: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", Path(model).name.lower()).strip("-")


def _small(recipe: Recipe) -> dict[str, Any]:
    """What the embedded model needs instead; how answers are sampled is the recipe's."""
    missing = EMBEDDED_MISSING if recipe.options.get("negatives") == "missing" else {}
    layers = {**EMBEDDED_PRESET, **missing, **SMALL}
    return {name: value for name, value in layers.items() if name != "min_p"}


def _layers(recipe: Recipe, request: Request, small: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Options from the recipe up to what was given, and where each of them comes from."""
    values = dict(recipe.options)
    origins = {name: told for name, (_, told) in recipe.origins.items()}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if small:
        layers.append(("preset of the embedded model", _small(recipe)))
    if request.limit:
        layers.append(("--limit", _limited(values, request.limit)))
    for label, layer in [*layers, ("given", request.given)]:
        values.update(layer)
        origins.update(dict.fromkeys(layer, label))
    return values, origins


def cell(name: str, request: Request) -> Cell:
    """A recipe by its name, resolved.

    Raises:
        ConfigError: there is no such recipe or cell, or an option is out of range.
        DataError: ``--data`` lacks a file.
    """
    recipe, model = find(name)
    if model is None and not request.model:
        names = ", ".join(f"{recipe.name}/{known.name}" for known in recipe.models)
        raise ConfigError(f"{name}: the model is missing.", f"one of {names}, or give --model")
    for option in OWN.keys() & request.given.keys():
        raise ConfigError(f"--set {option}: it is the recipe's own.", f"give {OWN[option]}")
    chosen = request.model or (model.id if model else "")
    small, invented = chosen == EMBEDDED, chosen == EMBEDDED and not request.data
    if 0 < request.limit < FEWEST:
        raise ConfigError(f"--limit must be at least {FEWEST}, not {request.limit}.", "or leave it")
    folder = FIXTURES if invented else Path(request.data).expanduser()
    hub = {file.name: file.address for file in recipe.files}
    places = _found(folder, recipe) if invented or request.data else hub
    values, origins = _layers(recipe, request, small)
    config = resolve(toml={**values, **_used(recipe, places), "model": chosen})
    paper = model if model and chosen in (model.id, model.smaller) else None
    other = "" if paper and chosen == paper.id else _slug(chosen)
    stem = [recipe.name, other or (paper.name if paper else "")]
    stem += [f"limit{request.limit}"] if request.limit else []
    notes = (
        *([INVENTED] if invented else []),
        *(["the embedded model's own preset is on top of the recipe"] if small else []),
        *([f"{chosen} in place of the paper's model"] if other and not small else []),
        *([f"--limit {request.limit}: not the recipe's size"] if request.limit else []),
        *([f"given besides: {', '.join(request.given)}"] if request.given else []),
    )
    return Cell(recipe, paper, config, request.out / "-".join(stem), invented, origins, notes)


def all_cells(request: Request) -> list[Cell]:
    """Every cell, or with a model of one's own every recipe once."""
    recipes = read_recipes().values()
    if request.model:
        return [cell(recipe.name, request) for recipe in recipes]
    return [cell(f"{r.name}/{model.name}", request) for r in recipes for model in r.models]


@dataclass(frozen=True)
class Beside:
    """A figure of the paper, with what was measured where that is the same thing.

    Attributes:
        text, origin: what the paper says, and where.
        metric, side, value: of the figure, where it was measured here.
        measured: the same of this run.
    """

    text: str
    origin: str
    metric: str | None = None
    side: str | None = None
    value: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class Result:
    """What became of a cell: content of ``RESULT``.

    Attributes:
        cell, model, data, notes: as in ``Cell``.
        metrics: rows of what the recipe measures.
        reported: the paper's figures.
        seconds: of all steps.
        run: the directory.
        error: why there is nothing else, or "".
    """

    cell: str
    run: str
    model: str = ""
    data: str = ""
    notes: Sequence[str] = ()
    metrics: Mapping[str, MetricRow] = field(default_factory=dict)
    reported: Sequence[Beside] = ()
    seconds: float = 0.0
    error: str = ""

    def to_json(self) -> Json:
        """Of a failure its cell, run and error; else all but the error."""
        if self.error:
            return {"cell": self.cell, "run": self.run, "error": self.error}
        kept = ("base", "adapter", "delta", "ci95", "n", "unit")
        rows = {name: row.to_json() for name, row in self.metrics.items()}
        return {
            "cell": self.cell,
            "model": self.model,
            "data": self.data,
            "notes": list(self.notes),
            "metrics": {name: {key: row[key] for key in kept} for name, row in rows.items()},
            "reported": [
                {name: value for name, value in vars(item).items() if value is not None}
                for item in self.reported
            ],
            "seconds": self.seconds,
            "run": self.run,
        }


def _beside(reported: Reported, metrics: Mapping[str, MetricRow]) -> Beside:
    row = metrics.get(reported.metric)
    if row is None:
        return Beside(reported.text, reported.origin)
    same = (reported.metric, reported.side, reported.value, row.side(reported.side))
    return Beside(reported.text, reported.origin, *same)


def run(cell: Cell, on_progress: Progress = silent) -> Result:
    """All four steps of a cell, those already done skipped; the result, kept as ``RESULT`` too.

    Raises:
        MipoError: as ``pipeline.run.run`` does.
    """
    report = pipeline.run.run(cell.run, cell.config, on_progress)
    metrics = report.metrics
    result = Result(
        cell=cell.name,
        run=str(cell.run),
        model=cell.config.data.model,
        data=cell.recipe.title,
        notes=cell.notes,
        metrics={name: metrics[name] for name in cell.recipe.measures if name in metrics},
        reported=[_beside(item, metrics) for item in cell.reported],
        seconds=report.seconds,
    )
    RunStore(cell.run).write_json(RESULT, result.to_json())
    return result


def run_all(cells: Sequence[Cell], on_progress: Progress = silent) -> list[Result]:
    """Results of cells one by one; a cell that fails leaves its message and the others go on."""
    results = []
    for item in cells:

        def told(stage: str, done: int, total: int, name: str = item.name) -> None:
            on_progress(f"{name}: {stage}", done, total)

        try:
            results.append(run(item, told))
        except MipoError as error:
            results.append(Result(item.name, str(item.run), error=str(error)))
    return results
