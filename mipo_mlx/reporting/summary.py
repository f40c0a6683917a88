"""Everything that a report shows, as one record: content of ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mipo_mlx.config import RunConfig
from mipo_mlx.reporting.evidence import Plots, Provenance
from mipo_mlx.reporting.narrative.changes import verdict
from mipo_mlx.reporting.narrative.limits import of_data, of_metrics
from mipo_mlx.results import EvalResult, Example, Json, MetricRow, Section
from mipo_mlx.results.files import sections_from_json
from mipo_mlx.results.rows import rows_from_json


@dataclass(frozen=True)
class Report:
    """Content of ``report.json``.

    Attributes:
        verdict: a line a headline metric.
        metrics, sections, examples, changed, answers, held_out, overlap: as in ``EvalResult``.
        length_ratio: mean length of the adapter's answers over the base's, if known.
        plots, provenance: numbers behind the plots; what was trained on what.
        limits: what the numbers cannot show.
        steps: figures of each step, by name.
        run: the directory.
        seconds, peak_memory_bytes: of all steps.
    """

    verdict: str
    metrics: Mapping[str, MetricRow]
    length_ratio: float | None
    sections: Mapping[str, Section]
    examples: Sequence[Example]
    changed: int
    answers: int
    held_out: str
    overlap: Mapping[str, tuple[int, int]]
    plots: Plots
    provenance: Provenance
    limits: Sequence[str]
    steps: Mapping[str, Json] = field(default_factory=dict)
    run: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def main(self) -> dict[str, MetricRow]:
        """Metrics that belong to no section: those of the main table."""
        apart = {name for section in self.sections.values() for name in section.metrics}
        return {name: row for name, row in self.metrics.items() if name not in apart}

    def to_json(self) -> Json:
        """As in ``report.json``; details of sections stand in ``eval.json`` alone."""
        sections = {name: section.to_json() for name, section in self.sections.items()}
        for section in sections.values():
            del section["details"]
        return {
            "schema": 1,
            **vars(self),
            "metrics": {name: row.to_json() for name, row in self.metrics.items()},
            "sections": sections,
            "examples": [vars(example) for example in self.examples],
            "plots": self.plots.to_json(),
            "provenance": asdict(self.provenance),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """What ``to_json`` gave."""
        parts = {name: value for name, value in content.items() if name != "schema"}
        return cls(
            **{
                **parts,
                "metrics": rows_from_json(content["metrics"]),
                "sections": sections_from_json(content["sections"]),
                "examples": [Example(**example) for example in content["examples"]],
                "plots": Plots.from_json(content["plots"]),
                "provenance": Provenance.from_json(content["provenance"]),
            }
        )


def summarise(
    result: EvalResult, plots: Plots, provenance: Provenance, config: RunConfig
) -> Report:
    """The report of an evaluation, without the run's costs."""
    lengths = result.metrics.get("length/response_tokens")
    ratio = lengths.adapter / lengths.base if lengths and lengths.base else None
    seen = of_data(result.held_out, result.overlap, provenance.stale, config)
    return Report(
        verdict=verdict(result.metrics),
        metrics=result.metrics,
        length_ratio=ratio,
        sections=result.sections,
        examples=result.examples,
        changed=result.changed,
        answers=result.answers,
        held_out=result.held_out,
        overlap=result.overlap,
        plots=plots,
        provenance=provenance,
        limits=[*seen, *of_metrics(result.metrics, ratio, config)],
    )
