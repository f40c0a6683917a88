"""Content of ``eval.json``; ``to_json`` and ``from_json`` alone know its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mipo_mlx.results.rows import Json, MetricRow, rows_from_json


@dataclass(frozen=True)
class Table:
    """Words and numbers as they are shown; the first column heads its row."""

    caption: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]

    def to_json(self) -> Json:
        body = [list(line) for line in self.body]
        return {"caption": self.caption, "head": list(self.head), "body": body}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Table:
        return cls(table["caption"], table["head"], table["body"])


@dataclass(frozen=True)
class Section:
    """A study as people read it.

    Attributes:
        title: heading in the report.
        about: what was measured and how to read it, a sentence or two.
        lines: findings, a sentence each.
        metrics: full names of its rows.
        tables: further numbers.
        details: what the numbers were taken from, for ``eval.json`` alone.
    """

    title: str
    about: str
    lines: Sequence[str] = ()
    metrics: Sequence[str] = ()
    tables: Sequence[Table] = ()
    details: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        return {
            "title": self.title,
            "about": self.about,
            "lines": list(self.lines),
            "metrics": list(self.metrics),
            "tables": [table.to_json() for table in self.tables],
            "details": self.details,
        }

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> Section:
        return cls(
            title=section["title"],
            about=section["about"],
            lines=section["lines"],
            metrics=section["metrics"],
            tables=[Table.from_json(table) for table in section["tables"]],
            details=section.get("details", {}),
        )


@dataclass(frozen=True)
class Example:
    """Answers of both models to one prompt, with what was known of the user."""

    context_id: str
    facts: Mapping[str, str]
    prompt: str
    base: str
    adapter: str


@dataclass(frozen=True)
class EvalResult:
    """Content of ``eval.json``.

    Attributes:
        metrics: rows by full name (``part/figure``), those of studies among them.
        sections: by name of the study.
        changed: answers that differ, of ``answers``.
        examples: a few of them.
        items: what the main metrics are means of: metric -> side -> a value an answer.
        overlap: ``users`` and ``prompts`` asked that were trained on, and how many were asked.
        held_out: what is new to the adapter.
    """

    metrics: Mapping[str, MetricRow]
    sections: Mapping[str, Section] = field(default_factory=dict)
    changed: int = 0
    answers: int = 0
    examples: Sequence[Example] = ()
    items: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    overlap: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    held_out: str = "nothing"

    def to_json(self) -> Json:
        return {
            "schema": 2,
            "metrics": {name: row.to_json() for name, row in self.metrics.items()},
            "sections": {name: section.to_json() for name, section in self.sections.items()},
            "changed": self.changed,
            "answers": self.answers,
            "examples": [vars(example) for example in self.examples],
            "items": {name: dict(sides) for name, sides in self.items.items()},
            "overlap": {kind: list(counts) for kind, counts in self.overlap.items()},
            "held_out": self.held_out,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EvalResult:
        """What ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        return cls(
            metrics=rows_from_json(content["metrics"]),
            sections=sections_from_json(content.get("sections", {})),
            changed=content["changed"],
            answers=content["answers"],
            examples=[Example(**example) for example in content["examples"]],
            items=content.get("items", {}),
            overlap={kind: (seen, of) for kind, (seen, of) in content.get("overlap", {}).items()},
            held_out=content["held_out"],
        )


@dataclass(frozen=True)
class Difference:
    """Rows of ``run`` less ``against``, by metric."""

    run: str
    against: str
    metrics: Mapping[str, MetricRow]


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side: content of ``controls.json``.

    Attributes:
        table: means as they are shown.
        contestants: who gave the answers -> metric -> mean.
        differences: to the first run.
        lines: findings, a sentence each.
        eval: hash of the evaluation that was compared, where it is kept.
    """

    table: Table
    contestants: Mapping[str, Mapping[str, float]]
    differences: Sequence[Difference]
    lines: Sequence[str]
    eval: str = ""

    def to_json(self) -> Json:
        differences = [
            {
                "run": each.run,
                "against": each.against,
                "metrics": {name: row.to_json() for name, row in each.metrics.items()},
            }
            for each in self.differences
        ]
        return {
            "table": self.table.to_json(),
            "contestants": dict(self.contestants),
            "differences": differences,
            "lines": list(self.lines),
            **({"eval": self.eval} if self.eval else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Comparison:
        differences = [
            Difference(each["run"], each["against"], rows_from_json(each["metrics"]))
            for each in content["differences"]
        ]
        return cls(
            Table.from_json(content["table"]),
            content["contestants"],
            differences,
            content["lines"],
            content.get("eval", ""),
        )


def sections_from_json(sections: Mapping[str, Any]) -> dict[str, Section]:
    """Sections by name, of ``sections`` in a file."""
    return {name: Section.from_json(section) for name, section in sections.items()}
