"""How much answers to the very same request differ, base against adapter: a study.

Self-BLEU across requests, which the main table has, falls by itself as answers grow specific to
their users; here only answers to one user and prompt are held against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation.metrics import Columns, Item, self_bleu4
from mipo_mlx.evaluation.responses import Part, ask_both, rows_of, spread
from mipo_mlx.evaluation.rows import Figure, rows, sentences
from mipo_mlx.evaluation.study import SIDES, Section, Subject
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.generation.pairs import Ask
from mipo_mlx.grading.ngrams import distinct, normal, similarity
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.stats.vendi import vendi

FIGURES = {
    "self_bleu4": Figure(
        "self-BLEU-4", "likeness of answers to one request; lower is more diverse",
        "BLEU, 0 to 100", -1,
    ),
    "distinct_1": Figure("distinct-1", "different words among all", "of words", 1),
    "distinct_2": Figure("distinct-2", "different pairs of words among all", "of pairs", 1),
    "vendi": Figure(
        "Vendi score", "as many quite different answers would be as diverse", "answers", 1
    ),
    "different": Figure("different answers", "different texts among them", "of answers", 1),
}  # fmt: skip
WORDS = "to one request"
ABOUT = (
    "{samples} answers of each model to the same request, held against each other. This is what to "
    "read for diversity: self-BLEU across requests, in the main table, falls by itself as answers "
    "grow specific to their users. Short answers are more distinct word by word."
)


def within(texts: Sequence[str]) -> dict[str, float]:
    """Each figure of several answers to one request; distinct-n is nan without n-grams."""
    return {
        "self_bleu4": float(self_bleu4(texts).mean()),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "vendi": vendi(similarity(texts)),
        "different": len({normal(text) for text in texts}) / len(texts),
    }


def columns_of(part: Part, side: str, samples: int) -> Columns:
    """A value a request, whose answers stand side by side in the part."""
    texts = part.texts(side)
    found = [within(texts[at : at + samples]) for at in range(0, len(texts), samples)]
    return {name: np.array([values[name] for values in found]) for name in FIGURES}


class DiversityStudy:
    """``--diversity-samples`` as a study."""

    name = "diversity"
    digest = ""  # it reads nothing of its own

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def check(self, lm: LanguageModel) -> None:
        """Nothing can be wrong: requests are those of eval."""

    def measure(self, subject: Subject) -> Section:
        """Metrics ``diversity/within/FIGURE``; their items are requests."""
        samples = self.config.eval.diversity_samples
        about = ABOUT.format(samples=samples)
        if self.config.generate.temperature == 0:
            line = "Answers are greedy, so all to one request are the same; nothing was measured."
            return Section("Diversity", about, [line])
        items = spread(subject.items, self.config.eval.diversity_prompts)
        asks = [Ask(item.context, item.prompt, n) for item in items for n in range(samples)]
        part = ask_both(subject, "within", WORDS, asks)
        columns = {side: columns_of(part, side, samples) for side in SIDES}
        metrics = rows("diversity/within", WORDS, columns, items, FIGURES, self.config)
        return Section(
            title="Diversity",
            about=about,
            lines=sentences(f"of {samples} answers {WORDS}", metrics, FIGURES),
            metrics=metrics,
            details=_details(items, columns),
            files={"diversity.jsonl": rows_of([part])},
        )


def _details(items: Sequence[Item], columns: Mapping[str, Columns]) -> dict[str, Any]:
    """A value a request, as ``eval.json`` keeps them."""
    return {
        "requests": [
            {"context_id": item.context.id if item.context else "", "prompt_id": item.prompt.id}
            for item in items
        ],
        **{
            side: {name: _plain(column) for name, column in own.items()}
            for side, own in columns.items()
        },
    }


def _plain(column: np.ndarray) -> list[float | None]:
    return [None if value != value else float(value) for value in column]


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> DiversityStudy | None:
    """The study of ``--diversity-samples``, or None where that is 0.

    Raises:
        ConfigError: one sample, which cannot differ from itself.
    """
    if config.eval.diversity_samples == 1:
        raise ConfigError(
            "--diversity-samples: one answer to a request cannot differ from itself.",
            "give 2 or more, or 0 to leave diversity out",
        )
    return DiversityStudy(config) if config.eval.diversity_samples else None
