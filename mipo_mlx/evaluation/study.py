"""What ``mipo eval`` measures beside its main table: a study each.

A module with a study has ``prepare(run, config, inputs)``: it reads and checks what the study needs
before a model is loaded, and returns None where the study was not asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import mlx.core as mx

from mipo_mlx.config import RunConfig
from mipo_mlx.evaluation.metrics import Columns
from mipo_mlx.evaluation.questions import Item, Questions
from mipo_mlx.generation.answers import AnswerJournal
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.lora import side
from mipo_mlx.results import Json, MetricRow
from mipo_mlx.results.findings import Findings
from mipo_mlx.types import Progress, Response


@dataclass(frozen=True)
class Subject:
    """What a study looks at.

    Attributes:
        lm: the model with the adapter attached.
        config: of the run.
        inputs: what was trained on and what is held out; held-out contexts are cut as they were
            asked.
        asked: what both were asked for the main table.
        columns: of ``base`` and ``adapter``, a value an item for each metric of the main table.
        answers: of ``base`` and ``adapter``, by the key of an item.
        journal: a stage's name -> where its sampled answers are kept, so that an interrupted eval
            goes on where it was.
    """

    lm: LanguageModel
    config: RunConfig
    inputs: Inputs
    asked: Questions
    columns: Mapping[str, Columns]
    answers: Mapping[str, Mapping[str, Response]]
    journal: Callable[[str], AnswerJournal]

    @property
    def items(self) -> list[Item]:
        """What was asked of both, in the order of the groups."""
        return self.asked.items

    @property
    def on_progress(self) -> Progress:
        """Told of stages."""
        return self.asked.on_progress

    def side(self, name: str) -> AbstractContextManager[LanguageModel]:
        """The model as ``base`` or as ``adapter`` while this is open."""
        return side(self.lm, name)

    def release(self) -> None:
        """Give the model's memory back; only the last study may, for nothing runs after it."""
        self.lm.model = None
        mx.clear_cache()


@dataclass(frozen=True)
class Measured:
    """What a study measured.

    Attributes:
        findings: what there is to tell beyond the rows.
        metrics: rows by full name (``part/figure``).
        details: JSON-able; what the numbers were taken from, for ``eval.json`` alone.
        files: JSONL files of the run directory by name, a row an entry.
    """

    findings: Findings
    metrics: Mapping[str, MetricRow] = field(default_factory=dict)
    details: Json = field(default_factory=dict)
    files: Mapping[str, Sequence[Json]] = field(default_factory=dict)


class Study(ABC):
    """One of the things that ``mipo eval`` measures besides."""

    name: str  # of its section in eval.json

    @property
    def digest(self) -> str:
        """Hash of what it read, if anything; options need not be in it."""
        return ""

    def check(self, lm: LanguageModel) -> None:  # noqa: B027 - most need nothing of the model
        """Faults that only show with the model, before anything is measured; here none.

        Raises:
            MipoError: it cannot be done.
        """

    @abstractmethod
    def measure(self, subject: Subject) -> Measured:
        """Ask both models, and count."""
