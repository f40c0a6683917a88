"""What a report shows beside its table, in numbers: distributions, curves, origins, limits.

All of it goes into ``report.json``; ``page`` draws nothing that does not stand there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mipo_mlx.config import RunConfig, all_options, to_dict
from mipo_mlx.recipes import FIXTURES

# How a metric is called, what it says, and whether more of it is better (1), worse (-1) or neither
METRICS = {
    "personalization/own_context_rate": (
        "own context rate", "answers that state a fact of their user and none of another's", 1,
    ),
    "personalization/wrong_fact_rate": (
        "wrong fact rate", "answers that state a fact of somebody else", -1,
    ),
    "information/pmi": (
        "PMI", "how much likelier an answer is under its own context than under any of several", 1,
    ),
    "information/context_accuracy": (
        "context accuracy", "answers likeliest under their own context, among several", 1,
    ),
    "control/swapped_context_gap": (
        "swapped context gap", "log-prob under the own context, less the mean under others", 1,
    ),
    "diversity/self_bleu4": (
        "self-BLEU-4", "likeness of answers to each other; lower is more diverse", 0,
    ),
    "length/response_tokens": ("answer length", "neither longer nor shorter is better", 0),
    "reasoning/accuracy": ("accuracy", "answers whose final number or choice is right", 1),
    "reasoning/form_rate": ("form rate", "answers with a final number or choice to be read", 1),
    "reasoning/choice_entropy": ("choice entropy", "uncertainty over the offered choices", 0),
}  # fmt: skip
CURVES = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "kl", "learning_rate")
POINTS = 100  # of a curve, at most
BINS = 20  # of a histogram, about
LENGTH_WARNING = 1.2  # ratio of mean lengths
FEW = 100  # answers


def _step(span: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that cuts ``span`` into at most ``BINS``."""
    power = 10.0 ** math.floor(math.log10(span / BINS))
    return next(f * power for f in (1, 2, 2.5, 5, 10, 20) if f * power * BINS >= span * (1 - 1e-9))


def histogram(
    columns: Mapping[str, Sequence[float]], unit: str, *, whole: bool = False
) -> dict[str, Any] | None:
    """Counts of several columns in common bins; None without a finite value.

    Args:
        columns: values by name; those that are not finite are left out.
        unit: of the values.
        whole: they are whole numbers, so that bins end between them.

    Returns:
        ``unit``, ``whole``, ``edges`` [bins + 1], ``counts`` and ``means`` by name; a bin holds its
        lower edge and not its upper one.
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
    return {
        "unit": unit,
        "whole": whole,
        "edges": [float(f"{edge:.12g}") for edge in edges],
        "counts": counts,
        "means": {name: float(array.mean()) for name, array in finite.items() if array.size},
    }


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Training metrics as at most ``POINTS`` means over as many neighbouring steps each.

    Returns:
        ``steps_per_point``, ``step`` (the last of each point) and the values of each of ``CURVES``
        that there is, None at points without a finite one; None without lines.
    """
    if not lines:
        return None
    width = math.ceil(len(lines) / POINTS)
    parts = [lines[start : start + width] for start in range(0, len(lines), width)]
    made: dict[str, Any] = {"steps_per_point": width, "step": [part[-1]["step"] for part in parts]}
    for name in CURVES:
        points = []
        for part in parts:
            found = [float(line[name]) for line in part if line.get(name) is not None]
            finite = [value for value in found if math.isfinite(value)]
            points.append(float(f"{sum(finite) / len(finite):.6g}") if finite else None)
        if any(point is not None for point in points):
            made[name] = points
    return made


def plots(
    results: Mapping[str, Any],
    training: Sequence[Mapping[str, Any]],
    pairs: Iterable[tuple[int, int]],
) -> dict[str, Any]:
    """Numbers behind the plots; what there is nothing of is None.

    Args:
        results: content of ``eval.json``.
        training: lines of ``metrics.jsonl``.
        pairs: tokens of the chosen and the rejected answer of each pair.
    """
    items = results.get("items", {})
    lengths = list(pairs)
    sides = {"rejected": [b for _, b in lengths], "chosen": [a for a, _ in lengths]}
    return {
        "pmi": histogram(items.get("information/pmi", {}), "nats"),
        "answer_tokens": histogram(items.get("length/response_tokens", {}), "tokens", whole=True),
        "pair_tokens": histogram(sides, "tokens", whole=True),
        "training": curves(training),
    }


def _changed_options(steps: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
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


def provenance(steps: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """What was trained on what, where, and at what cost.

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
    return {
        "model": config.data.model,
        "contexts": config.data.contexts or "the package's sample",
        "prompts": config.data.prompts or "the package's own",
        "pairs": config.train.pairs or "made by this run",
        "seed": train.get("seed", config.data.seed),
        "hashes": {name: value for name, value in hashes.items() if value},
        "stale": bool(made and judged.get("adapter") and made != judged["adapter"]),
        "options": _changed_options(steps, config),
        "machine": steps.get("train", steps.get("eval", {})).get("made_on"),
        "steps": [
            {
                "step": name,
                "seconds": step["stats"].get("seconds"),
                "peak_memory_bytes": step["stats"].get("peak_memory_bytes"),
                "pairs": step["stats"].get("pairs"),
                "optimizer_steps": step["stats"].get("optimizer_steps"),
            }
            for name, step in steps.items()
        ],
    }


HELD_OUT = {
    "users and prompts": "Users and prompts of this evaluation were never trained on.",
    "users": "The users are new, the prompts are not: the model was trained on these requests.",
    "prompts": "The prompts are new, the users are not: the model was trained on these people.",
    "nothing": "Nothing was held out: these numbers say how well the training data were learned.",
}


def limits(summary: Mapping[str, Any], config: RunConfig) -> list[str]:
    """What these numbers cannot show, a sentence or two each."""
    metrics, held_out = summary["metrics"], summary["held_out"]
    told = [HELD_OUT.get(held_out, f"Held out from training: {held_out}.")]
    told += [
        f"{seen} of {count} {kind} asked were trained on, by their texts."
        for kind, (seen, count) in summary["overlap"].items()
    ]
    if summary["provenance"]["stale"]:
        told.append("The adapter was trained again after this evaluation: run eval once more.")
    if config.data.model == "embedded":
        told.append(
            "The model is the package's own of one million parameters, in an invented world: this "
            "shows that the method works here, not how much a larger model would gain."
        )
    places = filter(None, (config.data.contexts, config.data.prompts))
    if any(Path(place).is_relative_to(FIXTURES) for place in places):
        told.append(
            "The data are a few invented rows in the columns of a public data set: this shows that "
            "a recipe runs, not what the paper found."
        )
    least = min((row["n"] for row in metrics.values()), default=0)
    told.append(
        "One training with one seed: another seed gives other numbers, and the intervals do not "
        "cover that." + (f" The smallest n is {least}." if least < FEW else "")
    )
    if len(metrics) > 1 and not any("p_holm" in row for row in metrics.values()):
        told.append(
            f"{len(metrics)} intervals of 95% each: the more of them, the likelier that one misses "
            "its true value by chance."
        )
    if "personalization/own_context_rate" in metrics:
        judged = "by a model alone" if "judge/wins" in metrics else "by nobody"
        told.append(
            "Facts are counted as whole words. Whether an answer is apt, true or pleasant was "
            f"judged {judged}."
        )
    if "information/pmi" in metrics:
        most = config.eval.candidates
        told.append(
            f"PMI is told among about {most} conditions and cannot pass the log of their number "
            f"(log {most} = {math.log(most):.2f} nats), so it understates large gains."
        )
    if config.data.objective == "context" and config.generate.negatives in ("missing", "mixed"):
        told.append(
            "Rejected answers that saw no context also reward an answer for using anybody's facts: "
            "look at the swapped context gap and the wrong fact rate."
        )
    ratio = summary.get("length_ratio")
    if ratio and not 1 / LENGTH_WARNING <= ratio <= LENGTH_WARNING:
        told.append(
            f"The adapter's answers are {ratio:.2f} times as long as the base's: part of a gain "
            "may be length alone."
        )
    return told
