"""Columns of both models -> titled rows with intervals, and sentences about them; for studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.evaluation.comparison import row, units
from mipo_mlx.evaluation.metrics import Columns, Item
from mipo_mlx.results import change, outcome


class Figure(NamedTuple):
    """How a column is told.

    Attributes:
        title: its name in tables and sentences.
        about: what it says.
        unit: of its values; "share of ..." for those of 0 and 1 alone.
        better: 1: more is, -1: less is, 0: neither.
    """

    title: str
    about: str
    unit: str
    better: int


def rows(
    part: str,
    words: str,
    columns: Mapping[str, Columns],
    items: Sequence[Item],
    figures: Mapping[str, Figure],
    config: RunConfig,
) -> dict[str, dict[str, Any]]:
    """A row for each figure that was measured of both, named ``part/figure``.

    Args:
        part: first part of the names.
        words: what the items are; titles end in it.
        columns: of ``base`` and ``adapter``, by name of a figure, a value an item [n]; items where
            either side has nan are left out.
        items: what the values are of; their users or prompts are resampled whole [n].
        figures: in the order of the rows.
        config: of the run.
    """
    made: dict[str, dict[str, Any]] = {}
    base, adapter = columns["base"], columns["adapter"]
    for name, figure in figures.items():
        if name not in base or name not in adapter:
            continue
        both = ~(np.isnan(base[name]) | np.isnan(adapter[name]))
        if not both.any():
            continue
        resampled, clusters = units([item for item, kept in zip(items, both, strict=True) if kept])
        found = row(
            base[name][both],
            adapter[name][both],
            clusters,
            unit=figure.unit,
            resampled=resampled,
            resamples=config.eval.resamples,
            seed=config.data.seed,
        )
        title = f"{figure.title}, {words}"
        told_as = {"title": title, "about": figure.about, "better": figure.better}
        made[f"{part}/{name}"] = found | told_as
    return made


def sentences(
    words: str, metrics: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Figure]
) -> list[str]:
    """A sentence for each row that changed, and one for all others; they begin with ``words``.

    Rows are those of ``rows``; such as have no figure are passed over.
    """
    where = words[0].upper() + words[1:]
    lines = []
    same: dict[str, list[str]] = {}
    for name, found in metrics.items():
        figure = figures.get(name.rpartition("/")[2])
        if figure is None:
            continue
        if change(found) == "none seen":
            count = found["n"] if found["resampled"] == "answers" else found["users"]
            same.setdefault(f"{count} {found['resampled']}", []).append(figure.title)
        else:
            lines.append(f"{where}: {figure.title} {outcome(found)}.")
    for count, titles in same.items():
        lines.append(f"{where}: no difference seen in {_listed(titles)}, at n = {count}.")
    return lines


def _listed(titles: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))
