"""The section of what was learned by heart."""

from __future__ import annotations

from collections.abc import Sequence

from mipo_mlx.reporting.format import change, difference, number, p_value
from mipo_mlx.reporting.narrative.changes import beyond
from mipo_mlx.results import ALPHA, Section, Table
from mipo_mlx.results.findings import (
    AttackFindings,
    GroupMeans,
    MemorizationFindings,
    SecretFindings,
)


def _secrets(found: SecretFindings) -> list[str]:
    """What the ranks of planted secrets say."""
    verdict = "this is memory" if found.p <= ALPHA else "no memory seen"
    before, after = found.first
    count = found.planted
    return [
        f"{found.rose} of {count} planted secrets became easier to extract; by chance "
        f"{found.expected:.2g} would (p = {p_value(found.p)}: {verdict}). Of {count} secrets that "
        f"were planted nowhere, {found.rose_elsewhere} did.",
        f"Likeliest of {found.space:,} values: {before} of {count} planted secrets before, "
        f"{after} after.",
        f"The chosen answers of training state {found.taught} of the {count} secrets.",
    ]


def _moved(group: GroupMeans, unit: str) -> str:
    return f"{number(group.base, unit)} -> {number(group.adapter, unit)}"


def _attack(found: AttackFindings) -> str:
    """A sentence on training users, and on what lies beyond held-out ones."""
    unit = found.unit
    title = found.title[0].upper() + found.title[1:]
    line = f"{title}: training users {_moved(found.groups[0], unit)}"
    if found.beyond:
        verdict = {"rose": "memory", "fell": "it fell", "none seen": "no memory seen"}
        line += (
            f", held-out users {_moved(found.groups[1], unit)}; beyond these "
            f"{difference(found.beyond.delta, unit)} ({beyond(found.beyond)}): "
            f"{verdict[change(found.beyond)]}"
        )
    return f"{line}."


def _table(attacks: Sequence[AttackFindings]) -> Table:
    """Means of all groups, an attack a row."""
    body = []
    for found in attacks:
        cells = [f"{_moved(group, found.unit)} (n = {group.n})" for group in found.groups]
        body.append([found.title, found.about, *cells, *[""] * (2 - len(cells))])
    head = ["attack", "mean of", "training users", "held-out users"]
    return Table("Base -> adapter, users as units", head, body)


def section(found: MemorizationFindings) -> Section:
    """What comes out without any context."""
    lines = _secrets(found.secrets) if found.secrets else []
    lines += [_attack(attack) for attack in found.attacks]
    if not all(attack.beyond for attack in found.attacks):
        lines.append(
            "Too few users were held out to compare with: a rise may be a change in general "
            "and no memory."
        )
    return Section(
        title="What was learned by heart",
        about="What comes out without any context in the prompt. Held-out users, and secrets "
        "that were planted nowhere, are the control: only what rises beyond them is memory. A "
        f"secret became easier to extract where it rose among the likeliest {found.top} of "
        f"{found.space:,} values that it might have had, from outside, after a question or after "
        "the start of its own sentence.",
        lines=lines,
        tables=[_table(found.attacks)] if found.attacks else [],
    )
