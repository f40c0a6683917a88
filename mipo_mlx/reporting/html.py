"""The report as one HTML file: no script, nothing from outside, all text escaped.

Every number on it stands in ``report.json``; ``templates/report.html`` is its template.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from mipo_mlx.grading.facts import stated
from mipo_mlx.reporting import plots
from mipo_mlx.reporting.evidence import Curves, Histogram
from mipo_mlx.reporting.format import (
    change,
    number,
    p_value,
    signed,
    typographic,
)
from mipo_mlx.reporting.narrative import captions
from mipo_mlx.reporting.summary import Report
from mipo_mlx.results import METRICS, SIDES, Example, Metric, MetricRow, Table


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    functions = (metric_of, level, difference, probability, outcome)
    environment.globals.update({function.__name__: function for function in functions})
    return environment.from_string(
        files("mipo_mlx.reporting").joinpath("templates/report.html").read_text("utf-8")
    )


def metric_of(name: str, row: MetricRow) -> Metric:
    """How a metric is called, what it says, and whether more of it is better."""
    known = METRICS.get(name) or Metric(name.rpartition("/")[2].replace("_", " "), "", row.unit, 0)
    return Metric(
        known.title if row.title is None else row.title,
        known.about if row.about is None else row.about,
        row.unit,
        known.better if row.better is None else row.better,
    )


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, with the value that it rounds; None where it is none."""

    value: float | None
    text: str


def _cell(value: float, text: str) -> Cell:
    return Cell(value if math.isfinite(value) else None, typographic(text))


def level(value: float, unit: str = "") -> Cell:
    """A mean."""
    return _cell(value, number(value, unit))


def difference(value: float, unit: str) -> Cell:
    """A difference of means."""
    return _cell(value, signed(value, unit))


def probability(p: float) -> Cell:
    """A p."""
    return _cell(p, p_value(p))


def outcome(name: str, row: MetricRow) -> tuple[str, str]:
    """A sign and words for what became of a metric, and whether that is good."""
    found = change(row)
    if found == "none seen":
        return "\N{WHITE CIRCLE}", found
    up, better = found == "rose", metric_of(name, row).better
    sign = "\N{BLACK UP-POINTING TRIANGLE}" if up else "\N{BLACK DOWN-POINTING TRIANGLE}"
    return sign, found + {0: "", 1: ", better", -1: ", worse"}[better if up else -better]


@dataclass(frozen=True)
class Piece:
    """A part of a text, with the fact that it states, or ""."""

    text: str
    fact: str = ""


@dataclass(frozen=True)
class Side:
    """An answer of one model in pieces, and the facts that it states."""

    name: str
    pieces: Sequence[Piece]
    states: Sequence[str]


def marked(text: str, facts: Mapping[str, str]) -> list[Piece]:
    """A text in pieces."""
    pieces, end = [], 0
    for start, stop, fact in stated(text, facts):
        pieces += [Piece(text[end:start]), Piece(text[start:stop], fact)]
        end = stop
    pieces.append(Piece(text[end:]))
    return [piece for piece in pieces if piece.text]


def _sides(example: Example) -> list[Side]:
    sides = []
    for name in SIDES:
        pieces = marked(getattr(example, name), example.facts)
        sides.append(Side(name, pieces, list(dict.fromkeys(p.fact for p in pieces if p.fact))))
    return sides


def _bin(low: float, high: float, whole: bool) -> str:
    """What a bin holds, in words."""
    if not whole:
        return f"{low:.12g} to {high:.12g}"
    return f"{low + 0.5:.0f}" + (f" to {high - 0.5:.0f}" if high - low > 1 else "")


def _bins(numbers: Histogram, title: str) -> Table:
    """A histogram as a table."""
    edges = numbers.edges
    body = [
        [_bin(low, high, numbers.whole), *(str(count) for count in row)]
        for low, high, *row in zip(edges, edges[1:], *numbers.counts.values(), strict=False)
    ]
    return Table(title, [numbers.unit, *numbers.counts], body)


def _steps(numbers: Curves) -> Table:
    """Curves as a table."""
    body = [
        [str(step), *("" if value is None else number(value) for value in row)]
        for step, *row in zip(numbers.step, *numbers.values.values(), strict=True)
    ]
    return Table("Training", ["step", *numbers.values], body)


@dataclass(frozen=True)
class Figure:
    """A plot with its numbers as a table; None where another table has them."""

    name: str
    title: str
    text: str
    svg: Markup
    table: Table | None


def _figures(report: Report) -> Iterator[Figure]:
    """The plots that there are numbers for."""
    metrics = {
        name: row
        for name, row in report.main.items()
        if all(map(math.isfinite, (row.delta, *row.ci95)))
    }
    if metrics:
        names = {name: metric_of(name, row).title for name, row in metrics.items()}
        yield Figure("forest", *captions.FOREST, Markup(plots.forest(metrics, names)), None)
    for name, (title, text) in captions.HISTOGRAMS.items():
        numbers: Histogram | None = getattr(report.plots, name)
        if numbers:
            svg = Markup(plots.histogram(numbers, name, title))
            yield Figure(name, title, text, svg, _bins(numbers, title))
    training = report.plots.training
    if training:
        text = captions.training(training.steps_per_point)
        yield Figure("curves", "Training", text, Markup(plots.curves(training)), _steps(training))


def render(report: Report) -> str:
    """The page of a report."""
    metrics = report.metrics
    return _template().render(
        report=report,
        sections={
            name: (section, {n: metrics[n] for n in section.metrics if n in metrics})
            for name, section in report.sections.items()
        },
        figures=list(_figures(report)),
        answers=[(example, _sides(example)) for example in report.examples],
        origin=report.provenance,
    )
