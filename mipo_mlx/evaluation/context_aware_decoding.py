"""A study: what is had without training, beside the adapter.

*Prompting* is the base with the user's context. *Context-aware decoding* (Shi et al. 2023, arXiv
2305.14739) samples from ``p(y|x,c)^(1+a) / p(y|x)^a`` of the base: the form of MIPO's optimum with
missing-context negatives, at twice the cost of an answer and none of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation.comparison import row, units
from mipo_mlx.evaluation.metrics import UNITS, Columns, columns_of, known_values
from mipo_mlx.evaluation.study import Section, Subject, Table
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.generation.pairs import Ask, sample
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import change, told, told_ends

# what the tables of controls show: metric -> heading
SHOWN = {
    "personalization/own_context_rate": "own context",
    "personalization/wrong_fact_rate": "wrong fact",
    "information/context_accuracy": "context accuracy",
    "information/pmi": "PMI",
    "control/swapped_context_gap": "swapped gap",
    "length/response_tokens": "tokens",
}
MOST = 100.0  # a


def cad_weights(text: str) -> list[float]:
    """The values of ``--cad``, as they were given.

    Raises:
        ConfigError: one is not a number above 0, or stands there twice.
    """
    found: list[float] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            a = float(part)
        except ValueError:
            a = 0.0
        if not 0 < a <= MOST or a in found:
            raise ConfigError(
                f"--cad: {part!r} is not another number above 0, at most {MOST:g}.", "--cad 0.5,1,2"
            )
        found.append(a)
    return found


def means_table(contestants: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Means of the named metrics, a row a contestant; empty where it has no values.

    Args:
        contestants: values by metric, by who gave the answers.
        names: of ``SHOWN``.
    """
    heads = [f"{SHOWN[n]} (nats)" if UNITS[n] == "nats" else SHOWN[n] for n in names]
    body = [
        [who, *(told(float(np.mean(own[n])), UNITS[n]) if n in own else "" for n in names)]
        for who, own in contestants.items()
    ]
    return Table("Means over held-out answers", ["answers of", *heads], body)


def finding(name: str, figure: Mapping[str, Any], who: str, other: str) -> str:
    """A sentence on one difference between two, ``other`` less ``who`` in the row."""
    unit = figure["unit"]
    size = f"{told(figure['base'], unit)} and {told(figure['adapter'], unit)}"
    where = f"95% interval of the difference {told_ends(figure['ci95'], unit)}"
    found = change(figure)
    if "p_holm" in figure:
        where += f", Holm p {figure['p_holm']:.2g}"
    if found == "none seen":
        return f"{SHOWN[name]}: no difference seen between {who} and {other} ({size}; {where})."
    word = "above" if found == "rose" else "below"
    return f"{SHOWN[name]}: {other} is {word} {who} ({size}; {where})."


class ControlStudy:
    """``--cad`` as a study."""

    name = "controls"
    digest = "1"  # changes whenever the same options give other numbers

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights

    def check(self, lm: LanguageModel) -> None:
        """Nothing more is needed of the model."""

    def _decoded(self, subject: Subject, a: float) -> Columns:
        """Columns of the base's answers by context-aware decoding."""
        config, who = subject.config, f"base by CAD a={a:g}"
        stage = f"{who}: sample answers"
        with subject.side("base") as lm:
            answers = sample(
                lm,
                [Ask(item.context, item.prompt) for item in subject.items],
                config.generate,
                config.data.seed + 1,
                subject.on_progress,
                stage,
                subject.journal(stage),
                contrast=a,
            )
            known = known_values(subject.inputs.train_contexts + subject.inputs.held_contexts)
            return columns_of(
                lm, subject.groups, answers, known, config.generate, subject.on_progress, who
            )

    def measure(self, subject: Subject) -> Section:
        """A table of contestants, and how the adapter compares with each control."""
        adapter = subject.columns["adapter"]
        contestants = {"base, prompted with the context": subject.columns["base"]}
        for a in self.weights:
            contestants[f"base, context-aware decoding, a = {a:g}"] = self._decoded(subject, a)
        resampled, clusters = units(subject.items)
        lines, details = [], {}
        for who, columns in list(contestants.items())[1:]:
            figures = {
                name: row(
                    columns[name],
                    adapter[name],
                    clusters[: len(columns[name])],
                    unit=UNITS[name],
                    resampled=resampled,
                    resamples=subject.config.eval.resamples,
                    seed=subject.config.data.seed,
                )
                for name in SHOWN
                if name in columns
            }
            first = next(iter(figures))
            lines.append(finding(first, figures[first], who, "the adapter"))
            details[who] = {
                "differences": figures,
                "items": {n: [float(f"{v:.6g}") for v in columns[n]] for n in figures},
            }
        contestants["adapter"] = adapter
        return Section(
            title="Controls",
            about="The same users and prompts, answered by the base as it is and by the base with "
            "context-aware decoding, which needs no training but two forward passes a token. "
            "Their answers are scored by the base, the adapter's by the adapter.",
            lines=lines,
            tables=[means_table(contestants, [name for name in SHOWN if name in adapter])],
            details=details,
        )


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> ControlStudy | None:
    """The study, where there are contexts to contrast with and ``--cad`` is not empty.

    Raises:
        ConfigError: ``--cad`` is malformed.
    """
    weights = cad_weights(config.eval.cad)
    return ControlStudy(weights) if weights and config.data.objective == "context" else None
