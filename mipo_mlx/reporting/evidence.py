"""What a report shows beside its table, in numbers: distributions, curves, origins.

All of it goes into ``report.json``; ``html`` draws nothing that does not stand there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mipo_mlx.config import RunConfig, all_options, to_dict
from mipo_mlx.results import Json

CURVES = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "kl", "learning_rate")
POINTS = 100  # of a curve, at most
BINS = 20  # of a histogram, about


def _step(span: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that cuts ``span`` into at most ``BINS``."""
    power = 10.0 ** math.floor(math.log10(span / BINS))
    return next(f * power for f in (1, 2, 2.5, 5, 10, 20) if f * power * BINS >= span * (1 - 1e-9))


@dataclass(frozen=True)
class Histogram:
    """Counts of several columns in common bins; a bin holds its lower edge, not its upper one.

    Attributes:
        unit: of the values.
        whole: they are whole numbers, so that bins end between them.
        edges: [bins + 1].
        counts, means: by name of a column; a column without finite values has no mean.
    """

    unit: str
    whole: bool
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]
    means: Mapping[str, float]


def histogram(
    columns: Mapping[str, Sequence[float]], unit: str, *, whole: bool = False
) -> Histogram | None:
    """Counts of values by name, finite ones alone; None without any.

    Args:
        columns: values by name.
        unit, whole: as in ``Histogram``.
    """
    finite = {
        name: array[np.isfinite(array)]
        for name, array in ((name, np.asarray(values, float)) for name, values in columns.items())
    }
    every = np.concatenate([*finite.values(), np.empty(0)])
    if not every.size:
        return None
    low, high = float(every.min()), float(every.max())
    step = _step(high - low or max(1.0, abs(low)))
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first = math.floor(low / step)
    count = math.floor(high / step) - first + 1
    edges = (first + np.arange(count + 1)) * step - (0.5 if whole else 0.0)
    counts = {}
    for name, array in finite.items():
        places = np.clip(np.searchsorted(edges, array, side="right") - 1, 0, count - 1)
        counts[name] = np.bincount(places, minlength=count).tolist()
    return Histogram(
        unit,
        whole,
        [float(f"{edge:.12g}") for edge in edges],
        counts,
        {name: float(array.mean()) for name, array in finite.items() if array.size},
    )


@dataclass(frozen=True)
class Curves:
    """Training metrics, a mean over ``steps_per_point`` neighbouring steps a point.

    Attributes:
        step: the last of each point.
        values: of each of ``CURVES`` that there is; None at points without a finite one.
    """

    steps_per_point: int
    step: Sequence[int]
    values: Mapping[str, Sequence[float | None]]

    def to_json(self) -> Json:
        """Values beside ``steps_per_point`` and ``step``."""
        return {"steps_per_point": self.steps_per_point, "step": list(self.step), **self.values}

    @classmethod
    def from_json(cls, curves: Mapping[str, Any]) -> Curves:
        values = {name: curves[name] for name in CURVES if name in curves}
        return cls(curves["steps_per_point"], curves["step"], values)


def curves(lines: Sequence[Mapping[str, Any]]) -> Curves | None:
    """Training metrics as at most ``POINTS`` points; None without lines.

    Args:
        lines: of ``metrics.jsonl``.
    """
    if not lines:
        return None
    width = math.ceil(len(lines) / POINTS)
    parts = [lines[start : start + width] for start in range(0, len(lines), width)]
    values: dict[str, list[float | None]] = {}
    for name in CURVES:
        points = []
        for part in parts:
            found = [float(line[name]) for line in part if line.get(name) is not None]
            finite = [value for value in found if math.isfinite(value)]
            points.append(float(f"{sum(finite) / len(finite):.6g}") if finite else None)
        if any(point is not None for point in points):
            values[name] = points
    return Curves(width, [part[-1]["step"] for part in parts], values)


@dataclass(frozen=True)
class Plots:
    """Numbers behind the plots; what there is nothing of is None."""

    pmi: Histogram | None = None
    answer_tokens: Histogram | None = None
    pair_tokens: Histogram | None = None
    training: Curves | None = None

    def to_json(self) -> Json:
        """As in ``report.json``."""
        numbers = {name: each and asdict(each) for name, each in vars(self).items()}
        return numbers | {"training": self.training and self.training.to_json()}

    @classmethod
    def from_json(cls, plots: Mapping[str, Any]) -> Plots:
        """What ``to_json`` gave."""
        histograms = {
            name: Histogram(**numbers)
            for name, numbers in plots.items()
            if name != "training" and numbers
        }
        training = plots["training"]
        return cls(**histograms, training=Curves.from_json(training) if training else None)


def plots(
    items: Mapping[str, Mapping[str, Sequence[float]]],
    training: Sequence[Mapping[str, Any]],
    pairs: Iterable[tuple[int, int]],
) -> Plots:
    """Numbers behind the plots.

    Args:
        items: of ``eval.json``: metric -> side -> values.
        training: lines of ``metrics.jsonl``.
        pairs: tokens of the chosen and the rejected answer of each pair.
    """
    lengths = list(pairs)
    sides = {"rejected": [b for _, b in lengths], "chosen": [a for a, _ in lengths]}
    return Plots(
        histogram(items.get("information/pmi", {}), "nats"),
        histogram(items.get("length/response_tokens", {}), "tokens", whole=True),
        histogram(sides, "tokens", whole=True),
        curves(training),
    )


def _changed_options(steps: Mapping[str, Json], config: RunConfig) -> Json:
    """Options that are not the default, as the steps took them."""
    flat = {name: value for part in to_dict(config).values() for name, value in part.items()}
    for step in ("generate", "train", "eval"):
        inputs = steps.get(step, {}).get("inputs", {})
        taken = {**inputs, **(inputs.get("eval") or {})}
        for name in set(taken) & set(flat) - {"model", "pairs", "adapter_path"}:  # hashes there
            flat[name] = taken[name]
    return {
        name: flat[name]
        for name, (_, item, _) in all_options().items()
        if flat[name] != item.default
    }


@dataclass(frozen=True)
class StepCost:
    """What a step took; None where it is not known, or of other steps."""

    step: str
    seconds: float | None
    peak_memory_bytes: int | None
    pairs: int | None
    optimizer_steps: int | None


@dataclass(frozen=True)
class Provenance:
    """What was trained on what, where, and at what cost.

    Attributes:
        model, contexts, prompts, pairs: as they were named, or where the package's own come from.
        seed: of training.
        hashes: sha256 by what they are of.
        stale: the adapter is another one than was evaluated.
        options: those that are not the default.
        machine: platform, device and versions, as the manifest has them.
        steps: in their order.
    """

    model: str
    contexts: str
    prompts: str
    pairs: str
    seed: int
    hashes: Mapping[str, str]
    stale: bool
    options: Json
    machine: Json | None
    steps: Sequence[StepCost]

    @classmethod
    def from_json(cls, origin: Mapping[str, Any]) -> Provenance:
        """What ``dataclasses.asdict`` gave."""
        return cls(**{**origin, "steps": [StepCost(**step) for step in origin["steps"]]})


def provenance(steps: Mapping[str, Json], config: RunConfig) -> Provenance:
    """Of a run.

    Args:
        steps: of the manifest.
        config: of the run.
    """
    inputs = {name: step["inputs"] for name, step in steps.items()}
    train, judged = inputs.get("train", {}), inputs.get("eval", {})
    data = judged.get("data") or inputs.get("generate", {}).get("data")
    hashes = {
        "model": train.get("model") or judged.get("model"),
        "contexts and prompts": data,
        "pairs": train.get("pairs"),
        "adapter": judged.get("adapter"),
    }
    made = steps.get("train", {}).get("outputs", {}).get("adapter/adapters.safetensors")
    costs = ("seconds", "peak_memory_bytes", "pairs", "optimizer_steps")
    return Provenance(
        model=config.data.model,
        contexts=config.data.contexts or "the package's sample",
        prompts=config.data.prompts or "the package's own",
        pairs=config.train.pairs or "made by this run",
        seed=train.get("seed", config.data.seed),
        hashes={name: value for name, value in hashes.items() if value},
        stale=bool(made and judged.get("adapter") and made != judged["adapter"]),
        options=_changed_options(steps, config),
        machine=steps.get("train", steps.get("eval", {})).get("made_on"),
        steps=[
            StepCost(name, *(step["stats"].get(cost) for cost in costs))
            for name, step in steps.items()
        ],
    )
