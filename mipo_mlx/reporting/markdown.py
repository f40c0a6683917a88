"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mipo_mlx.results import change


def _with_interval(value: float, ends: Sequence[float] | None, sign: str = "") -> str:
    """A value, and where there is one its 95% interval."""
    told = f"{value:{sign}.4g}"
    return told + (f" [{ends[0]:{sign}.4g}, {ends[1]:{sign}.4g}]" if ends else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    rows = [head, *body]
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def _sections(sections: Mapping[str, Any]) -> list[str]:
    """Sections of studies, but for their metrics, which stand in the table of all."""
    lines = []
    for section in sections.values():
        lines += ["", f"## {section['title']}", "", section["about"]]
        lines += ["", *(f"- {line}" for line in section["lines"])] if section["lines"] else []
        for table in section["tables"]:
            lines += ["", f"{table['caption']}", ""]
            lines += markdown_table(table["head"], table["body"])
    return lines


def markdown(summary: Mapping[str, Any]) -> str:
    """The report's table, verdict and sections as Markdown; intervals are of 95%."""
    names = (
        *("metric", "base", "adapter", "delta", "change", "p", "Holm p", "McNemar p"),
        *("answers", "users", "effective n", "unit"),
    )
    lines = ["  \n".join(summary["verdict"].split("\n")), ""]
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, row in summary["metrics"].items():
        tests = [f"{row[key]:.2g}" if key in row else "" for key in ("p", "p_holm", "mcnemar_p")]
        cells = (
            name,
            _with_interval(row["base"], row.get("base_ci95")),
            _with_interval(row["adapter"], row.get("adapter_ci95")),
            _with_interval(row["delta"], row["ci95"], "+"),
            change(row),
            *tests,
            *(str(row["n"]), str(row.get("users", ""))),
            *(f"{row['effective_n']:.0f}" if "effective_n" in row else "", row["unit"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += _sections(summary["sections"])
    return "\n".join(lines) + "\n"
