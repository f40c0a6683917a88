"""What ``mipo eval`` measures beside its main table: a study each, told as a section each.

A module with a study has ``prepare(run, config, inputs)``: it reads and checks what the study needs
before a model is loaded, and returns None where the study was not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import mlx.core as mx

from mipo_mlx.config import RunConfig
from mipo_mlx.evaluation.metrics import Columns, Group, Item
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.generation.pairs import AnswerJournal
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.lora import adapter_disabled
from mipo_mlx.types import Progress, Response

SIDES = ("base", "adapter")


@dataclass(frozen=True)
class Subject:
    """What a study looks at.

    Attributes:
        lm: the model with the adapter attached.
        config: of the run.
        inputs: what was trained on and what is held out; held-out contexts are cut as they were
            asked.
        groups: conditions that are each other's wrong ones.
        items: what was asked of both, in the order of the groups.
        columns: of ``base`` and ``adapter``, a value an item for each metric of the main table.
        answers: of ``base`` and ``adapter``, by the key of an item.
        on_progress: told of stages.
        journal: a stage's name -> where its sampled answers are kept, so that an interrupted eval
            goes on where it was.
    """

    lm: LanguageModel
    config: RunConfig
    inputs: Inputs
    groups: Sequence[Group]
    columns: Mapping[str, Columns]
    answers: Mapping[str, Mapping[str, Response]]
    on_progress: Progress
    journal: Callable[[str], AnswerJournal]

    @property
    def items(self) -> list[Item]:
        return [item for group in self.groups for item in group.items]

    @contextmanager
    def side(self, name: str) -> Iterator[LanguageModel]:
        """The model as ``base`` or as ``adapter`` while this is open."""
        if name == "adapter":
            yield self.lm
        else:
            with adapter_disabled(self.lm):
                yield self.lm

    def release(self) -> None:
        """Give the model's memory back; only the last study may, for nothing runs after it."""
        self.lm.model = None
        mx.clear_cache()


@dataclass(frozen=True)
class Table:
    """Words and numbers as they are shown; the first column heads its row."""

    caption: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """What a study found.

    Attributes:
        title: heading in the report.
        about: what was measured and how to read it, a sentence or two.
        lines: findings in plain words, a sentence each.
        metrics: by full name (``part/figure``), rows as ``compare.row`` makes them; ``title``,
            ``about`` and ``better`` (1: more is, -1: less is, 0: neither) may be added to each.
        tables: further numbers.
        details: JSON-able; what the numbers were taken from, for ``eval.json`` alone.
        files: JSONL files of the run directory by name, a row an entry.
    """

    title: str
    about: str
    lines: Sequence[str] = ()
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """What ``eval.json`` keeps of it; rows of metrics stand among all others there."""
        return {
            "title": self.title,
            "about": self.about,
            "lines": list(self.lines),
            "metrics": list(self.metrics),
            "tables": [asdict(table) for table in self.tables],
            "details": dict(self.details),
        }


class Study(Protocol):
    """One of the things that ``mipo eval`` measures besides."""

    name: str  # of its section in eval.json

    @property
    def digest(self) -> str:
        """Hash of what it read; options need not be in it."""

    def check(self, lm: LanguageModel) -> None:
        """Faults that only show with the model, before anything is measured.

        Raises:
            MipoError: it cannot be done.
        """

    def measure(self, subject: Subject) -> Section:
        """Do it."""
