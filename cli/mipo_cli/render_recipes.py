"""What people see of recipes: the list, a dry run, and results beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mipo_cli.render import figure
from mipo_mlx.reporting.format import interval, number

if TYPE_CHECKING:
    from mipo_mlx.pipeline.reproduce import Result


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def show_cells(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a cell; the data set is named by its recipe."""
    console = Console(highlight=False)
    table = _table("cell", "objective", "model")
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(row["cell"], row["objective"], row["model"])
    console.print(table)
    console.print("\nWhat is stated, unknown and chosen: NAME --dry-run, or --json.", markup=False)


def show_dry_run(told: Sequence[Mapping[str, Any]]) -> None:
    """Statements, options with their origins, downloads, cost, memory and time of each."""
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    for cell in told:
        console.print(cell["cell"], style="bold", markup=False)
        say(f"model: {cell['model']}")
        if cell["smaller"]:
            say(f"for less memory: --model {cell['smaller']}")
        for note in cell["notes"]:
            say(f"note: {note}")
        for kind in ("stated", "unknown", "chosen", "reported"):
            say(kind if cell[kind] else f"{kind}: nothing")
            for text in cell[kind]:
                say(f"  {text}")
        say("options")
        for name, option in cell["options"].items():
            say(f"  {name} = {option['value']}  ({option['origin'].partition(':')[0]})")
        say("downloads" if cell["downloads"] else "downloads: none")
        for item in cell["downloads"]:
            size = f"about {item['bytes'] / 2**30:.1f} GiB" if item["bytes"] else "size not known"
            say(f"  {item['what']}: {size}; {item['note']}")
        say(f"cost, from {cell['counted_from']}")
        for name, value in cell["cost"].items():
            say(f"  {name}: {value}")
        say("training")
        for name, value in cell["training"].items():
            say(f"  {name}: {figure(name, value)}")
        say(f"run directory: {cell['run']}\n")


def _rows(result: Result) -> list[tuple[str, ...]]:
    """A row a metric: base, adapter, interval of the difference, n, what the paper gives."""
    if result.error:
        return [(result.cell, "failed", "", "", "", "", "")]
    papers = {item.metric: item for item in result.reported if item.value is not None}
    rows: list[tuple[str, ...]] = []
    for name, row in result.metrics.items():
        paper = papers.get(name)
        given = f"{paper.side} {number(paper.value or 0.0, row.unit)}" if paper else "-"
        figures = (number(row.base, row.unit), number(row.adapter, row.unit))
        own = (interval(row.ci95, row.unit).removesuffix(" points"), str(row.n), given)
        rows.append((result.cell, name.partition("/")[2], *figures, *own))
    return rows


def show_results(results: Sequence[Result]) -> None:
    """Notes, one table, then the paper's other figures and faults."""
    console = Console(highlight=False)
    many = len(results) > 1
    table = _table("recipe", "metric", "base", "adapter", "95% of delta", "n", "paper")
    for result in results:
        for row in _rows(result)[: 1 if many else None]:
            table.add_row(*row)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        console.print(note, markup=False)
    console.print()
    console.print(table)
    console.print()
    paper = [
        f"{result.cell.partition('/')[0]}, paper: {item.text} ({item.origin})"
        for result in results
        for item in result.reported
    ]
    for text in dict.fromkeys(paper):
        console.print(text, markup=False, soft_wrap=True)
    for result in results:
        if result.error:
            console.print(f"{result.cell}: {result.error}", markup=False, soft_wrap=True)
    for result in results:
        console.print(f"files in {result.run}", markup=False, soft_wrap=True)
