"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mipo_mlx.reporting.format import change, difference, number, p_value, signed
from mipo_mlx.reporting.summary import Report
from mipo_mlx.results import Ends, MetricRow, Section

HEAD = (
    *("metric", "base", "adapter", "delta", "change", "p", "Holm p", "McNemar p"),
    *("answers", "users", "effective n", "unit"),
)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    rows = [head, *body]
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def _mean(value: float, ends: Ends | None, unit: str) -> str:
    """A mean, and where there is one its 95% interval."""
    text = number(value, unit)
    return f"{text} [{number(ends[0], unit)}, {number(ends[1], unit)}]" if ends else text


def _cells(name: str, row: MetricRow) -> list[str]:
    low, high = (signed(end, row.unit) for end in row.ci95)
    return [
        name,
        _mean(row.base, row.base_ci95, row.unit),
        _mean(row.adapter, row.adapter_ci95, row.unit),
        f"{difference(row.delta, row.unit)} [{low}, {high}]",
        change(row),
        *("" if p is None else p_value(p) for p in (row.p, row.p_holm, row.mcnemar_p)),
        str(row.n),
        "" if row.users is None else str(row.users),
        "" if row.effective_n is None else f"{row.effective_n:.0f}",
        row.unit,
    ]


def _sections(sections: Mapping[str, Section]) -> list[str]:
    """Sections of studies, but for their metrics, which stand in the table of all."""
    lines = []
    for section in sections.values():
        lines += ["", f"## {section.title}", "", section.about]
        lines += ["", *(f"- {line}" for line in section.lines)] if section.lines else []
        for table in section.tables:
            lines += ["", f"{table.caption}", ""]
            lines += markdown_table(table.head, table.body)
    return lines


def markdown(report: Report) -> str:
    """The report's table, verdict and sections as Markdown; intervals are of 95%."""
    lines = ["  \n".join(report.verdict.split("\n")), ""]
    lines += markdown_table(HEAD, [_cells(name, row) for name, row in report.metrics.items()])
    lines += _sections(report.sections)
    return "\n".join(lines) + "\n"
