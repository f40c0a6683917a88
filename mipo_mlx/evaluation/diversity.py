"""How much answers to the very same request differ, base against adapter: a study.

Self-BLEU across requests, which the main table has, falls by itself as answers grow specific to
their users; here only answers to one user and prompt are held against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation.comparison import Asked, titled_rows
from mipo_mlx.evaluation.metrics import Columns, self_bleu4
from mipo_mlx.evaluation.questions import Item
from mipo_mlx.evaluation.responses import Part, ask_both, rows_of, spread
from mipo_mlx.evaluation.study import Measured, Study, Subject
from mipo_mlx.generation.answers import Ask
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.grading.ngrams import distinct, similarity
from mipo_mlx.grading.text import normalise
from mipo_mlx.results import SIDES, Json, Metric
from mipo_mlx.results.findings import DiversityFindings
from mipo_mlx.stats.vendi import vendi

FIGURES = {
    "self_bleu4": Metric(
        "self-BLEU-4", "likeness of answers to one request; lower is more diverse",
        "BLEU, 0 to 100", -1,
    ),
    "distinct_1": Metric("distinct-1", "different words among all", "of words", 1),
    "distinct_2": Metric("distinct-2", "different pairs of words among all", "of pairs", 1),
    "vendi": Metric(
        "Vendi score", "as many quite different answers would be as diverse", "answers", 1
    ),
    "different": Metric("different answers", "different texts among them", "of answers", 1),
}  # fmt: skip
WORDS = "to one request"


def within(texts: Sequence[str]) -> dict[str, float]:
    """Each figure of several answers to one request; distinct-n is nan without n-grams."""
    return {
        "self_bleu4": float(self_bleu4(texts).mean()),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "vendi": vendi(similarity(texts)),
        "different": len({normalise(text) for text in texts}) / len(texts),
    }


def columns_of(part: Part, side: str, samples: int) -> Columns:
    """A value a request, whose answers stand side by side in the part."""
    texts = part.texts(side)
    found = [within(texts[at : at + samples]) for at in range(0, len(texts), samples)]
    return {name: np.array([values[name] for values in found]) for name in FIGURES}


class DiversityStudy(Study):
    """``--diversity-samples`` as a study; requests are those of eval."""

    name = "diversity"

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def measure(self, subject: Subject) -> Measured:
        """Metrics ``diversity/within/FIGURE``; their items are requests."""
        samples = self.config.eval.diversity_samples
        greedy = self.config.generate.temperature == 0
        findings = DiversityFindings(samples, greedy)
        if greedy:
            return Measured(findings)
        items = spread(subject.items, self.config.eval.diversity_prompts)
        asks = [Ask(item.context, item.prompt, n) for item in items for n in range(samples)]
        part = ask_both(subject, "within", WORDS, asks)
        columns = {side: columns_of(part, side, samples) for side in SIDES}
        asked = Asked("diversity/within", WORDS, items)
        return Measured(
            findings,
            titled_rows(asked, columns, FIGURES, self.config),
            _details(items, columns),
            {"diversity.jsonl": rows_of([part])},
        )


def _details(items: Sequence[Item], columns: Mapping[str, Columns]) -> Json:
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
