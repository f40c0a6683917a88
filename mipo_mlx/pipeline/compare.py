"""Several runs side by side: one table of contestants, and paired differences where they were asked
the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mipo_mlx.config import RunConfig, read_toml, resolve
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.evaluation.comparison import CONTRASTED, HEADLINE, Draws, adjusted, means_of, row
from mipo_mlx.reporting.narrative.changes import finding, means_table, not_asked_the_same
from mipo_mlx.results import METRICS, Comparison, Difference, MetricRow
from mipo_mlx.run_dir.store import RunStore


@dataclass(frozen=True)
class Judged:
    """A run that was evaluated.

    Attributes:
        name: as it is called in tables.
        model: fingerprint of the base.
        asked: ``(context_id, prompt_id)`` of each answer.
        users: whose each answer is.
        base_texts: the base's answers.
        items: ``metric -> side -> values``, an answer each.
        controls: values of decodings without training, by name and metric.
    """

    name: str
    model: str
    asked: list[tuple[str, str]]
    users: list[str]
    base_texts: list[str]
    items: Mapping[str, Mapping[str, Sequence[float]]]
    controls: Mapping[str, Mapping[str, Sequence[float]]]

    def side(self, name: str) -> dict[str, Sequence[float]]:
        """Values of ``base`` or ``adapter`` by metric."""
        return {metric: sides[name] for metric, sides in self.items.items()}


def kind(config: RunConfig) -> str:
    """What a run trained, in a few words."""
    loss = {"sigmoid": "MIPO", "mipo": "MIPO", "sft": "SFT on chosen"}.get(
        config.train.loss, config.train.loss
    )
    if config.train.pairs and loss == "MIPO":
        return "DPO on given pairs"
    if loss != "MIPO":
        return loss
    if config.data.objective == "prompt":
        return "MIPO, other prompts"
    count = config.generate.num_negatives
    return f"MIPO, {config.generate.negatives}" + (f", K = {count}" if count > 1 else "")


def read_run(path: Path) -> Judged:
    """A run's results.

    Raises:
        ConfigError: it was not evaluated.
        MipoError: its files are not those of ``mipo eval``.
    """
    for name in ("eval.json", "answers.jsonl", "config.toml"):
        if not (path / name).is_file():
            raise ConfigError(f"{path / name}: no such file.", f"run 'mipo eval {path}' first")
    try:
        results = json.loads((path / "eval.json").read_text(encoding="utf-8"))
        text = (path / "answers.jsonl").read_text(encoding="utf-8")
        answers = [json.loads(line) for line in text.splitlines()]
        details = results["sections"].get("controls", {}).get("details", {})
        return Judged(
            name=f"{kind(resolve(read_toml(path / 'config.toml')))} ({path.name})",
            model=RunStore(path).manifest()["steps"]["eval"]["inputs"]["model"],
            asked=[(answer["context_id"], answer["prompt_id"]) for answer in answers],
            users=[answer["user"] or answer["prompt_id"] for answer in answers],
            base_texts=[answer["base"] for answer in answers],
            items=results["items"],
            controls={name: found["items"] for name, found in details.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MipoError(
            f"{path}: not what this version of 'mipo eval' wrote.", f"run 'mipo eval {path}' again"
        ) from error


def _contestants(runs: Sequence[Judged]) -> dict[str, Mapping[str, Sequence[float]]]:
    """Values by metric: the base and its controls once where all runs share them, then adapters."""
    first = runs[0]
    alike = all(run.model == first.model and run.base_texts == first.base_texts for run in runs)
    made: dict[str, Mapping[str, Sequence[float]]] = {}
    for run in runs[:1] if alike else runs:
        suffix = "" if alike else f" of {run.name}"
        made[f"base, prompted with the context{suffix}"] = run.side("base")
        for name, values in run.controls.items():
            made[f"{name}{suffix}"] = values
    for run in runs:
        made[run.name] = run.side("adapter")
    return made


def _differences(one: Judged, other: Judged, resamples: int, seed: int) -> dict[str, MetricRow]:
    """Rows of the contrasted metrics, ``other`` less ``one``, of the same answers."""
    draws = Draws(one.users, "users", resamples, seed)
    rows = {}
    for name in CONTRASTED:
        if name not in one.items or name not in other.items:
            continue
        base, adapter = (np.array(run.items[name]["adapter"]) for run in (one, other))
        if base.size == adapter.size <= len(one.users):
            rows[name] = row(base, adapter, METRICS[name].unit, draws.first(base.size))
    return rows


def _holm(differences: Sequence[Difference]) -> list[Difference]:
    """Differences whose headline metrics, of all together, are one family."""
    family = {
        (at, name): each.metrics[name]
        for at, each in enumerate(differences)
        for name in HEADLINE
        if name in each.metrics
    }
    rows = dict(zip(family, adjusted(list(family.values())), strict=True))
    return [
        replace(
            each,
            metrics={name: rows.get((at, name), row) for name, row in each.metrics.items()},
        )
        for at, each in enumerate(differences)
    ]


def _to_the_first(
    runs: Sequence[Judged], resamples: int, seed: int
) -> tuple[list[Difference], list[str]]:
    """Differences of all others, Holm-corrected, and a line on each run that has none."""
    first = runs[0]
    differences: list[Difference] = []
    lines: list[str] = []
    for run in runs[1:]:
        if run.model != first.model or run.asked != first.asked:
            lines.append(not_asked_the_same(run.name, first.name))
            continue
        rows = _differences(first, run, resamples, seed)
        differences.append(Difference(run.name, first.name, rows))
    return _holm(differences), lines


def beside(paths: Sequence[Path], *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Runs side by side.

    The family of tests is the headline metrics of all differences: Holm's correction is over them.

    Args:
        paths: run directories, at least two; differences are to the first.
        resamples: draws of each interval.
        seed: of these.

    Raises:
        MipoError: a run cannot be read.
    """
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(runs):
        raise ConfigError(
            f"{', '.join(map(str, paths))}: two different runs or more are compared.",
            "mipo compare runs/a runs/b",
        )
    differences, lines = _to_the_first(runs, resamples, seed)
    for each in differences:
        lines += [
            finding(name, figure, each.against, each.run)
            for name, figure in each.metrics.items()
            if figure.p_holm is not None
        ]
    contestants = _contestants(runs)
    means = {
        who: {name: value for name, value in own.items() if name in runs[0].items}
        for who, own in means_of(contestants).items()
    }
    return Comparison(means_table(means), means, differences, lines)
