"""A row a metric: the one record of every measurement of base and adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Json = dict[str, Any]  # an object of a JSON file, as it is read or written
Ends = tuple[float, float]  # of an interval
SIDES = ("base", "adapter")
ALPHA = 0.05  # of every interval and test of a report


@dataclass(frozen=True)
class Metric:
    """How a number is called and what it is.

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


# The main table; further metrics are those of studies.
METRICS = {
    "personalization/own_context_rate": Metric(
        "own context rate", "answers that state a fact of their user and none of another's",
        "share of answers", 1,
    ),
    "personalization/wrong_fact_rate": Metric(
        "wrong fact rate", "answers that state a fact of somebody else", "share of answers", -1,
    ),
    "information/pmi": Metric(
        "PMI", "how much likelier an answer is under its own context than under any of several",
        "nats", 1,
    ),
    "information/context_accuracy": Metric(
        "context accuracy", "answers likeliest under their own context, among several",
        "share of answers", 1,
    ),
    "control/swapped_context_gap": Metric(
        "swapped context gap", "log-prob under the own context, less the mean under others",
        "nats", 1,
    ),
    "diversity/self_bleu4": Metric(
        "self-BLEU-4", "likeness of answers to each other; lower is more diverse",
        "BLEU, 0 to 100", 0,
    ),
    "length/response_tokens": Metric(
        "answer length", "neither longer nor shorter is better", "tokens", 0,
    ),
    "reasoning/accuracy": Metric(
        "accuracy", "answers whose final number or choice is right", "share of answers", 1,
    ),
    "reasoning/form_rate": Metric(
        "form rate", "answers with a final number or choice to be read", "share of answers", 1,
    ),
    "reasoning/choice_entropy": Metric(
        "choice entropy", "uncertainty over the offered choices", "nats", 0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class MetricRow:
    """One measurement of base and adapter.

    Attributes:
        base, adapter: means, in ``unit``.
        delta: adapter less base, with its ends ``ci95`` (95%) and two-sided ``p``.
        n: items behind both means.
        unit: of the means; one that starts with "share" is a rate.
        users: clusters that were resampled whole; None where items were resampled.
        resampled: what was drawn, in the plural.
        effective_n: independent items worth the same.
        needed: how many resampled would show a delta of this size, with power 80%.
        base_ci95, adapter_ci95: of rates, Wilson's at the effective n.
        mcnemar_p: of accuracies, answers taken as independent.
        p_holm: ``p`` adjusted for its family; of headline metrics alone.
        counted: of figures over some of the items, how many of each side.
        sd: over items, of each side.
        title, about, better: as in ``Metric``; None for those of ``METRICS``.
    """

    base: float
    adapter: float
    delta: float
    ci95: Ends
    p: float
    n: int
    unit: str
    users: int | None = None
    resampled: str = "problems"
    effective_n: float | None = None
    needed: int | None = None
    base_ci95: Ends | None = None
    adapter_ci95: Ends | None = None
    mcnemar_p: float | None = None
    p_holm: float | None = None
    counted: tuple[int, int] | None = None
    sd: tuple[float, float] | None = None
    title: str | None = None
    about: str | None = None
    better: int | None = None

    @property
    def count(self) -> int:
        """The n that tells how sure a difference is: of what was resampled."""
        one_by_one = self.users is None or self.resampled in ("answers", "problems")
        return self.n if one_by_one else self.users or 0

    def side(self, name: str) -> float:
        """The mean of ``base`` or ``adapter``."""
        return self.adapter if name == "adapter" else self.base

    def to_json(self) -> Json:
        """As in ``eval.json``: what is None is left out, but for ``needed`` of clusters."""
        clusters = ("needed", "resampled") if self.users is not None else ()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name in clusters or (value is not None and name != "resampled")
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> MetricRow:
        """A row of ``eval.json``; keys that are not known are passed over."""
        known = {each.name: row[each.name] for each in fields(cls) if each.name in row}
        ends = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**{**known, **ends})


def rows_from_json(rows: Mapping[str, Any]) -> dict[str, MetricRow]:
    """Rows by name, of ``metrics`` in a file."""
    return {name: MetricRow.from_json(row) for name, row in rows.items()}
