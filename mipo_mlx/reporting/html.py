"""The report as one HTML file: no script, nothing from outside, all text escaped.

Every number on it stands in ``report.json``; ``templates/report.html`` is its template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from mipo_mlx.grading.facts import stated
from mipo_mlx.reporting import plots
from mipo_mlx.reporting.evidence import METRICS
from mipo_mlx.reporting.plots import shown, span
from mipo_mlx.reporting.summary import apart

Row = dict[str, Any]
ALPHA = 0.05  # of tests and intervals


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(
        files("mipo_mlx.reporting").joinpath("templates/report.html").read_text("utf-8")
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def known(name: str, row: Mapping[str, Any]) -> tuple[str, str, int]:
    """How a metric is called, what it says, and whether more of it is better (1, -1 or 0)."""
    title, about, better = METRICS.get(name, (name.rpartition("/")[2].replace("_", " "), "", 0))
    return row.get("title", title), row.get("about", about), row.get("better", better)


def sections(summary: Mapping[str, Any]) -> list[Row]:
    """Sections of studies with their own rows of the metrics."""
    metrics = summary["metrics"]
    return [
        {
            **section,
            "name": name,
            "rows": headline({n: metrics[n] for n in section["metrics"] if n in metrics}),
        }
        for name, section in summary["sections"].items()
    ]


def _level(value: Any, unit: str) -> Row:
    """A mean as the table shows it: with its value, a share in percent."""
    if not _finite(value):
        return {"value": None, "text": shown(math.nan)}
    share = unit.startswith("share")
    text = f"{100 * value:.1f}%" if share else shown(value, sign=False)
    return {"value": value, "text": text}


def _difference(value: Any, unit: str) -> Row:
    if not _finite(value):
        return {"value": None, "text": shown(math.nan)}
    return {"value": value, "text": shown(span(unit)[1] * value)}


def _outcome(name: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """A sign and words for where an interval lies, and whether that is good."""
    low, high = row["ci95"]
    if not (_finite(low) and _finite(high)):
        return "?", "not known"
    if low <= 0 <= high:
        return "\N{WHITE CIRCLE}", "not clear of zero"
    if row.get("p_holm", row.get("p", 0.0)) > ALPHA:
        return "\N{WHITE CIRCLE}", "none seen, by p"
    up = low > 0
    better = known(name, row)[2]
    sign = "\N{BLACK UP-POINTING TRIANGLE}" if up else "\N{BLACK DOWN-POINTING TRIANGLE}"
    good = {0: "", 1: ", better", -1: ", worse"}[better if up else -better]
    return sign, ("higher" if up else "lower") + good


def _pair(row: Mapping[str, Any], name: str, show: Callable[[Any, str], Row]) -> list[Row]:
    """Both ends of an interval of a row, or nothing where it has none."""
    ends = row.get(name)
    return [show(end, row["unit"]) for end in ends] if ends else []


def headline(metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The table's rows: each shown number with the value that it rounds."""
    rows = []
    for name, row in metrics.items():
        unit = row["unit"]
        sign, outcome = _outcome(name, row)
        title, about, _ = known(name, row)
        rows.append(
            {
                "name": name,
                "title": title,
                "about": about,
                "unit": unit,
                "change": span(unit)[0],
                "base": _level(row["base"], unit),
                "adapter": _level(row["adapter"], unit),
                "base_ci95": _pair(row, "base_ci95", _level),
                "adapter_ci95": _pair(row, "adapter_ci95", _level),
                "delta": _difference(row["delta"], unit),
                "ci95": _pair(row, "ci95", _difference),
                "p": _level(row.get("p_holm", row.get("p")), ""),
                "holm": "p_holm" in row,
                "mcnemar": _level(row.get("mcnemar_p"), ""),
                "n": row["n"],
                "users": row.get("users"),
                "effective_n": _level(row.get("effective_n"), ""),
                "sign": sign,
                "outcome": outcome,
            }
        )
    return rows


def marked(text: str, facts: Mapping[str, str]) -> list[Row]:
    """A text in pieces, each with the fact that it states, or none."""
    pieces, end = [], 0
    for start, stop, fact in stated(text, facts):
        pieces += [{"text": text[end:start], "fact": ""}, {"text": text[start:stop], "fact": fact}]
        end = stop
    pieces.append({"text": text[end:], "fact": ""})
    return [piece for piece in pieces if piece["text"]]


def _answers(examples: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for example in examples:
        facts = example.get("facts") or {}
        sides = []
        for side in ("base", "adapter"):
            pieces = marked(example[side], facts)
            told = list(dict.fromkeys(p["fact"] for p in pieces if p["fact"]))
            sides.append({"name": side, "pieces": pieces, "told": told})
        yield {
            "prompt": example["prompt"],
            "user": example["context_id"],
            "facts": facts,
            "sides": sides,
        }


def _bin(low: float, high: float, whole: bool) -> str:
    """What a bin holds, in words."""
    if not whole:
        return f"{low:.12g} to {high:.12g}"
    return f"{low + 0.5:.0f}" + (f" to {high - 0.5:.0f}" if high - low > 1 else "")


def _bins(numbers: Mapping[str, Any]) -> Row:
    """A histogram as a table."""
    edges, counts = numbers["edges"], numbers["counts"]
    body = [
        [_bin(low, high, numbers["whole"]), *(str(count) for count in row)]
        for low, high, *row in zip(edges, edges[1:], *counts.values(), strict=False)
    ]
    return {"head": [numbers["unit"], *counts], "body": body}


def _steps(numbers: Mapping[str, Any]) -> Row:
    """Curves as a table."""
    names = [name for name in numbers if name not in ("step", "steps_per_point")]
    body = [
        [str(step), *("" if value is None else f"{value:.4g}" for value in row)]
        for step, *row in zip(numbers["step"], *(numbers[name] for name in names), strict=True)
    ]
    return {"head": ["step", *names], "body": body}


def _figure(name: str, title: str, text: str, svg: str, table: Row | None) -> Row:
    return {"name": name, "title": title, "text": text, "svg": Markup(svg), "table": table}


HISTOGRAMS = (
    (
        "pmi", "PMI before and after",
        "Held-out answers by their pointwise mutual information with their own context, each "
        "answer scored by the model that wrote it. Farther right, the answer tells more of whom it "
        "was written for.",
    ),
    (
        "answer_tokens", "Length of held-out answers",
        "A gain that comes with longer answers may be length alone.",
    ),
    (
        "pair_tokens", "Length of the answers trained on",
        "Where chosen answers are longer than rejected ones, training may teach length.",
    ),
)  # fmt: skip


def _figures(summary: Mapping[str, Any]) -> Iterator[Row]:
    """The plots that there are numbers for, each with these as a table; the first has its own."""
    metrics = {
        name: row
        for name, row in apart(summary).items()
        if all(_finite(value) for value in (row["delta"], *row["ci95"]))
    }
    numbers = summary["plots"]
    if metrics:
        yield _figure(
            "forest",
            "Differences, with 95% intervals",
            "Adapter less base, of paired answers. Filled square: the interval is clear of zero "
            "(dotted line). Open circle: it is not. Metrics of one unit share an axis; the table "
            "above holds the numbers.",
            plots.forest(metrics, {name: known(name, row)[0] for name, row in metrics.items()}),
            None,
        )
    for name, title, text in HISTOGRAMS:
        if numbers.get(name):
            svg = plots.histogram(numbers[name], name, title)
            yield _figure(name, title, text, svg, _bins(numbers[name]))
    training = numbers.get("training")
    if training:
        width = training["steps_per_point"]
        text = "Means over the pairs of each optimizer step, before its update."
        if width > 1:
            text = f"Means over the pairs of {width} optimizer steps each, before their updates."
        yield _figure("curves", "Training", text, plots.curves(training), _steps(training))


def render(summary: Mapping[str, Any]) -> str:
    """The page of a summary as ``mipo report`` makes it and as it stands in ``report.json``."""
    return _template().render(
        summary=summary,
        rows=headline(apart(summary)),
        sections=sections(summary),
        figures=list(_figures(summary)),
        answers=list(_answers(summary["examples"])),
        origin=summary["provenance"],
    )
