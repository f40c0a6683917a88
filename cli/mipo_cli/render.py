"""What people see: tables on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mipo_mlx.reporting.format import change, interval, number

if TYPE_CHECKING:  # NumPy is not needed for --help
    from mipo_mlx.reporting.summary import Report
    from mipo_mlx.results import Comparison

QUIET_SECONDS = 2.0
LINE_SECONDS = 30.0  # between lines where there is no terminal


class Bars:
    """Progress of each stage: a bar at a terminal, elsewhere a line now and then and at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def __call__(self, stage: str, done: int, total: int) -> None:
        name, _, note = stage.partition(", ")
        began = self.started.setdefault(name, time.monotonic())
        seconds = time.monotonic() - began
        rate = f"{done / seconds:.1f}/s" if seconds > 0.2 else ""
        if self.console.is_terminal and seconds > QUIET_SECONDS:
            if name not in self.tasks:
                self.progress.start()
                self.tasks[name] = self.progress.add_task(name, total=total, rate=rate)
            text = f"{name} {note}".strip()
            self.progress.update(self.tasks[name], completed=done, rate=rate, description=text)
        if not self.console.is_terminal and done < total:
            self._line(name, note, done, total)
        if done >= total and seconds > QUIET_SECONDS:
            self.console.print(
                f"{name}: {done} in {seconds:.1f} s {note}".rstrip(), highlight=False
            )

    def _line(self, name: str, note: str, done: int, total: int) -> None:
        """Where a stage stands, if it was not told just now."""
        now, began = time.monotonic(), self.started[name]
        if now - self.told.setdefault(name, began) < LINE_SECONDS:
            return
        self.told[name] = now
        left = f", about {(now - began) * (total - done) / done:.0f} s left" if done else ""
        line = f"{name}: {done} of {total} in {now - began:.0f} s{left} {note}".rstrip()
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Notes(logging.Handler):
    """What the library has to say, a line each, above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        label = "warning: " if record.levelno >= logging.WARNING else ""
        self.console.print(label + text, markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Bars]:
    """Progress bars and notes on stderr for the length of the block."""
    bars = Bars(Console(stderr=True))
    log, notes = logging.getLogger("mipo_mlx"), Notes(bars.console)
    log.setLevel(logging.INFO)
    log.addHandler(notes)
    try:
        yield bars
    finally:
        log.removeHandler(notes)
        if bars.tasks:
            bars.progress.stop()


def show_json(summary: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")


def show_markdown(report: Report) -> None:
    """The verdict and the table, to be pasted elsewhere."""
    from mipo_mlx.reporting.markdown import markdown

    sys.stdout.write(markdown(report))


def figure(name: str, value: Any) -> str:
    """One value of a summary, in words."""
    if isinstance(value, Mapping):
        pairs = [(key, inner) for key, inner in value.items() if name != "dropped" or inner]
        return ", ".join(f"{key} {figure(key, inner)}" for key, inner in pairs) or "none"
    if name.endswith("bytes"):
        return f"{float(value) / 2**20:.0f} MiB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_stats(step: str, stats: Mapping[str, Any]) -> None:
    """The figures of one step, a line each; those of a probe below it."""
    console = Console(highlight=False)
    console.print(f"{step}: {'unchanged, nothing to do' if stats.get('unchanged') else 'done'}")
    for name, value in stats.items():
        if name == "probe":
            show_stats("its probe", value)
        elif name != "unchanged":
            console.print(f"  {name}: {figure(name, value)}", markup=False)


def show_doctor(summary: Mapping[str, Any]) -> None:
    """Machine, then training, a line each, then the verdict."""
    console = Console(highlight=False)
    for part, figures in summary.items():
        console.print(part)
        for name, value in figures.items():
            if name == "cached_models":
                value = {key: f"{size / 2**30:.2f} GiB" for key, size in value.items()}
            console.print(f"  {name}: {figure(name, value)}", markup=False)
    fits = summary["training"]["fits"]
    console.print("it fits" if fits else "it does not fit")


def _results(report: Report) -> Table:
    """The main table."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("metric", overflow="fold")
    for name in ("base", "adapter", "95% of delta"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("change", overflow="fold")
    for name, row in report.main.items():
        table.add_row(
            name.partition("/")[2].replace("_", " "),
            number(row.base, row.unit),
            number(row.adapter, row.unit),
            interval(row.ci95, row.unit).removesuffix(" points"),
            str(row.n),
            change(row),
        )
    return table


def show_report(report: Report) -> None:
    """Verdict, table of base and adapter, and answers side by side."""
    console = Console(highlight=False)
    console.print(_results(report))
    console.print()
    for section in report.sections.values():
        if section.lines:
            console.print(section.title, style="bold")
            for line in section.lines:
                console.print(f"  {line}", markup=False)
            console.print()
    console.print(f"{report.changed} of {report.answers} answers changed, among them:")
    for example in report.examples:
        console.print(f"? {example.prompt}", style="bold", markup=False)
        console.print(f"  base:    {example.base}", markup=False)
        console.print(f"  adapter: {example.adapter}", markup=False)
    console.print()
    console.print(report.verdict, markup=False)
    if report.length_ratio:
        console.print(f"Answers are {report.length_ratio:.2f} times as long as the base's.")
    console.print(f"Held out from training: {report.held_out}.")
    memory = report.peak_memory_bytes / 2**20
    console.print(f"{report.seconds:.0f} s, peak memory {memory:.0f} MiB; files in", end=" ")
    console.print(report.run, markup=False, soft_wrap=True)


def show_beside(found: Comparison, markdown: bool) -> None:
    """The table of contestants and the differences in words, or both as Markdown."""
    head, body = found.table.head, found.table.body
    if markdown:
        from mipo_mlx.reporting.markdown import markdown_table

        lines = [*markdown_table(head, body), "", *(f"- {line}" for line in found.lines)]
        sys.stdout.write("\n".join(lines) + "\n")
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(head):
        column: dict[str, Any] = {"justify": "right"} if index else {"min_width": 18}
        table.add_column(escape(name), overflow="fold", **column)
    for cells in body:
        table.add_row(*map(escape, cells))
    console.print(table)
    console.print()
    for line in found.lines:
        console.print(line, markup=False)


def show_contexts(summary: Mapping[str, Any]) -> None:
    """Users with their tokens, and the sums; no text."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("context", overflow="fold")
    for name in ("tokens", "characters", "facts"):
        table.add_column(name, justify="right")
    table.add_column("language")
    for row in summary["contexts"]:
        figures = (str(row[name]) for name in ("tokens", "characters", "facts"))
        table.add_row(escape(row["id"]), *figures, escape(row["language"]))
    console.print(table)
    console.print(
        f"{len(summary['contexts'])} contexts of {summary['users']} users, "
        f"{summary['different_texts']} different; "
        f"{summary['tokens']} tokens, the longest {summary['longest']}."
    )
    if summary["beyond_window"]:
        console.print(
            f"{summary['beyond_window']} do not fit the model's window of {summary['window']} "
            "tokens: --max-prompt-tokens cuts them."
        )
