"""A study: what is had without training, beside the adapter.

*Prompting* is the base with the user's context. *Context-aware decoding* (Shi et al. 2023, arXiv
2305.14739) samples from ``p(y|x,c)^(1+a) / p(y|x)^a`` of the base: the form of MIPO's optimum with
missing-context negatives, at twice the cost of an answer and none of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mipo_mlx.config import RunConfig
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation.comparison import CONTRASTED, draws_of, means_of, row
from mipo_mlx.evaluation.metrics import Columns, columns_of
from mipo_mlx.evaluation.study import Measured, Study, Subject
from mipo_mlx.generation.answers import Ask, sample
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.results import METRICS, Json, MetricRow
from mipo_mlx.results.findings import ControlFindings

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


class ControlStudy(Study):
    """``--cad`` as a study."""

    name = "controls"

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights

    @property
    def digest(self) -> str:
        """Changes whenever the same options give other numbers."""
        return "1"

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
            return columns_of(lm, subject.asked, answers, who)

    def measure(self, subject: Subject) -> Measured:
        """Contestants, and how the adapter compares with each control."""
        adapter = subject.columns["adapter"]
        contestants = {"base, prompted with the context": subject.columns["base"]}
        for a in self.weights:
            contestants[f"base, context-aware decoding, a = {a:g}"] = self._decoded(subject, a)
        options = subject.config.eval
        draws = draws_of(subject.items, options.resamples, subject.config.data.seed)
        differences: dict[str, dict[str, MetricRow]] = {}
        details: Json = {}
        for who, columns in list(contestants.items())[1:]:
            rows = {
                name: row(
                    columns[name],
                    adapter[name],
                    METRICS[name].unit,
                    draws.first(columns[name].size),
                )
                for name in CONTRASTED
                if name in columns
            }
            differences[who] = rows
            details[who] = {
                "differences": {name: figure.to_json() for name, figure in rows.items()},
                "items": {n: [float(f"{v:.6g}") for v in columns[n]] for n in rows},
            }
        contestants["adapter"] = adapter
        return Measured(ControlFindings(means_of(contestants), differences), {}, details)


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> ControlStudy | None:
    """The study, where there are contexts to contrast with and ``--cad`` is not empty.

    Raises:
        ConfigError: ``--cad`` is malformed.
    """
    weights = cad_weights(config.eval.cad)
    return ControlStudy(weights) if weights and config.data.objective == "context" else None
