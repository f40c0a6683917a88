"""What the numbers of a report cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from mipo_mlx.config import RunConfig
from mipo_mlx.recipes import FIXTURES
from mipo_mlx.results import MetricRow

LENGTH_WARNING = 1.2  # ratio of mean lengths
FEW = 100  # answers
HELD_OUT = {
    "users and prompts": "Users and prompts of this evaluation were never trained on.",
    "users": "The users are new, the prompts are not: the model was trained on these requests.",
    "prompts": "The prompts are new, the users are not: the model was trained on these people.",
    "nothing": "Nothing was held out: these numbers say how well the training data were learned.",
}


def of_data(
    held_out: str, overlap: Mapping[str, tuple[int, int]], stale: bool, config: RunConfig
) -> list[str]:
    """What was seen in training, and what the model and the data are.

    Args:
        held_out, overlap: as in ``EvalResult``.
        stale: the adapter was trained again.
        config: of the run.
    """
    lines = [HELD_OUT.get(held_out, f"Held out from training: {held_out}.")]
    lines += [
        f"{seen} of {count} {kind} asked were trained on, by their texts."
        for kind, (seen, count) in overlap.items()
    ]
    if stale:
        lines.append("The adapter was trained again after this evaluation: run eval once more.")
    if config.data.model == "embedded":
        lines.append(
            "The model is the package's own of one million parameters, in an invented world: this "
            "shows that the method works here, not how much a larger model would gain."
        )
    places = filter(None, (config.data.contexts, config.data.prompts))
    if any(Path(place).is_relative_to(FIXTURES) for place in places):
        lines.append(
            "The data are a few invented rows in the columns of a public data set: this shows that "
            "a recipe runs, not what the paper found."
        )
    return lines


def _of_counts(metrics: Mapping[str, MetricRow]) -> list[str]:
    least = min((row.n for row in metrics.values()), default=0)
    lines = [
        "One training with one seed: another seed gives other numbers, and the intervals do not "
        "cover that." + (f" The smallest n is {least}." if least < FEW else "")
    ]
    if len(metrics) > 1 and all(row.p_holm is None for row in metrics.values()):
        lines.append(
            f"{len(metrics)} intervals of 95% each: the more of them, the likelier that one misses "
            "its true value by chance."
        )
    return lines


def of_metrics(
    metrics: Mapping[str, MetricRow], length_ratio: float | None, config: RunConfig
) -> list[str]:
    """What the metrics leave out, a sentence or two each."""
    lines = _of_counts(metrics)
    if "personalization/own_context_rate" in metrics:
        judged = "by a model alone" if "judge/wins" in metrics else "by nobody"
        lines.append(
            "Facts are counted as whole words. Whether an answer is apt, true or pleasant was "
            f"judged {judged}."
        )
    if "information/pmi" in metrics:
        most = config.eval.candidates
        lines.append(
            f"PMI is told among about {most} conditions and cannot pass the log of their number "
            f"(log {most} = {math.log(most):.2f} nats), so it understates large gains."
        )
    if config.data.objective == "context" and config.generate.negatives in ("missing", "mixed"):
        lines.append(
            "Rejected answers that saw no context also reward an answer for using anybody's facts: "
            "look at the swapped context gap and the wrong fact rate."
        )
    if length_ratio and not 1 / LENGTH_WARNING <= length_ratio <= LENGTH_WARNING:
        lines.append(
            f"The adapter's answers are {length_ratio:.2f} times as long as the base's: part of a "
            "gain may be length alone."
        )
    return lines
