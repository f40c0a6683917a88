"""From what was measured of both models to rows with intervals and tests, users as clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.evaluation.metrics import Columns
from mipo_mlx.evaluation.questions import Item
from mipo_mlx.results import ALPHA, METRICS, Metric, MetricRow
from mipo_mlx.stats.bootstrap import (
    Counted,
    needed,
    paired_bootstrap,
    paired_bootstrap_among,
)
from mipo_mlx.stats.exposure import difference
from mipo_mlx.stats.intervals import clustered_rate
from mipo_mlx.stats.tests import holm, mcnemar

# What a verdict is given on, all at once: Holm's family. More is better in each.
HEADLINE = (
    "personalization/own_context_rate",
    "information/context_accuracy",
    "information/pmi",
    "reasoning/accuracy",
)
# What runs and controls are compared by.
CONTRASTED = (
    "personalization/own_context_rate",
    "personalization/wrong_fact_rate",
    "information/context_accuracy",
    "information/pmi",
    "control/swapped_context_gap",
    "length/response_tokens",
)
ACCURACIES = ("information/context_accuracy", "reasoning/accuracy")
STATISTICS = 3  # changes whenever the same answers give other numbers


@dataclass(frozen=True)
class Draws:
    """How the items of a row are resampled.

    Attributes:
        clusters: a label an item [n]; clusters are drawn whole.
        resampled: what a cluster is, in the plural.
        resamples: draws of the bootstrap.
        seed: of these.
    """

    clusters: Sequence[str]
    resampled: str
    resamples: int
    seed: int

    def first(self, count: int) -> Draws:
        """Of the first items, for a metric that looks at these alone."""
        return replace(self, clusters=self.clusters[:count])


def draws_of(items: Sequence[Item], resamples: int, seed: int) -> Draws:
    """Draws of users, or of prompts where there are none.

    Answers of one user are resampled one by one: what is seen then holds for that user.
    """
    clusters = [item.cluster for item in items]
    if len(set(clusters)) == 1 and len(items) > 1:
        names = [str(index) for index in range(len(items))]
        return Draws(names, "answers", resamples, seed)
    resampled = "users" if any(item.context for item in items) else "prompts"
    return Draws(clusters, resampled, resamples, seed)


def row(
    base: np.ndarray, adapter: np.ndarray, unit: str, draws: Draws, alpha: float = ALPHA
) -> MetricRow:
    """A metric's row, from a value an item of both sides.

    Args:
        base: [n].
        adapter: of the same items [n].
        unit: of the values.
        draws: of the same items.
        alpha: of the test that ``needed`` is told for.
    """
    clusters = draws.clusters
    found = paired_bootstrap(
        base, adapter, clusters=clusters, resamples=draws.resamples, seed=draws.seed
    )
    rate = unit.startswith("share")
    return MetricRow(
        base=float(np.mean(base)),
        adapter=float(np.mean(adapter)),
        delta=found.delta,
        ci95=(found.low, found.high),
        p=found.p,
        n=found.n,
        unit=unit,
        users=len(set(clusters)),
        resampled=draws.resampled,
        effective_n=found.effective_n,
        needed=needed(found, alpha=alpha),
        base_ci95=clustered_rate(base, clusters) if rate else None,
        adapter_ci95=clustered_rate(adapter, clusters) if rate else None,
    )


def row_among(
    base: Counted, adapter: Counted, unit: str, resamples: int, seed: int
) -> MetricRow | None:
    """A row over the items that count on each side, items resampled; None where none do.

    ``n`` is the lesser count; nats have ``sd``, over items.
    """
    if not base.counts.any() or not adapter.counts.any():
        return None
    found = paired_bootstrap_among(base, adapter, resamples=resamples, seed=seed)
    one, two = base.own, adapter.own
    return MetricRow(
        base=float(one.mean()),
        adapter=float(two.mean()),
        delta=found.delta,
        ci95=(found.low, found.high),
        p=found.p,
        n=min(one.size, two.size),
        unit=unit,
        sd=(float(one.std()), float(two.std())) if unit == "nats" else None,
    )


def row_between(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], unit: str
) -> MetricRow | None:
    """How far one group of users changed beyond another; None for a single user in either.

    ``base`` and ``adapter`` are differences of the groups' means, ``delta`` that of these, by
    Welch's t with users as units.

    Args:
        first: values of base and adapter, a user each.
        second: the same of other users.
        unit: of the values.
    """
    users = first[0].size + second[0].size
    if min(first[0].size, second[0].size) < 2:
        return None
    found = difference(first[1] - first[0], second[1] - second[0])
    base, adapter = (float(one.mean() - two.mean()) for one, two in zip(first, second, strict=True))
    return MetricRow(
        base=base,
        adapter=adapter,
        delta=found.delta,
        ci95=(found.low, found.high),
        p=found.p,
        n=users,
        unit=unit,
        users=users,
        resampled="users",
    )


@dataclass(frozen=True)
class Asked:
    """What the values of a study's columns are of.

    Attributes:
        name: first part of its rows' names.
        words: what the items are; titles end in it.
        items: their users or prompts are resampled whole [n].
    """

    name: str
    words: str
    items: Sequence[Item]


def titled_rows(
    asked: Asked,
    columns: Mapping[str, Columns],
    figures: Mapping[str, Metric],
    config: RunConfig,
) -> dict[str, MetricRow]:
    """A row for each figure that was measured of both, by ``asked.name/figure``.

    Args:
        asked: what the values are of.
        columns: of ``base`` and ``adapter``, by name of a figure, a value an item [n]; items where
            either side has nan are left out.
        figures: in the order of the rows.
        config: of the run.
    """
    rows: dict[str, MetricRow] = {}
    base, adapter = columns["base"], columns["adapter"]
    for name, figure in figures.items():
        if name not in base or name not in adapter:
            continue
        both = ~(np.isnan(base[name]) | np.isnan(adapter[name]))
        if not both.any():
            continue
        items = [item for item, kept in zip(asked.items, both, strict=True) if kept]
        draws = draws_of(items, config.eval.resamples, config.data.seed)
        rows[f"{asked.name}/{name}"] = replace(
            row(base[name][both], adapter[name][both], figure.unit, draws),
            title=f"{figure.title}, {asked.words}",
            about=figure.about,
            better=figure.better,
        )
    return rows


def compare(
    base: Columns, adapter: Columns, items: Sequence[Item], *, resamples: int, seed: int
) -> dict[str, MetricRow]:
    """Rows of the main table; users are resampled whole.

    Accuracies have ``mcnemar_p``, and the headline metrics ``p_holm``; ``users`` counts the users
    of the items, whatever is resampled.
    """
    metrics: dict[str, MetricRow] = {}
    family = [name for name in HEADLINE if name in base]
    for name, metric in METRICS.items():
        if name not in base:
            continue
        behind = [
            i for i in items if name != "reasoning/choice_entropy" or i.prompt.kind == "choice"
        ]
        behind = behind[: len(base[name])]
        alpha = ALPHA / len(family) if name in family else ALPHA
        draws = draws_of(behind, resamples, seed)
        test = mcnemar(base[name], adapter[name]) if name in ACCURACIES else None
        metrics[name] = replace(
            row(base[name], adapter[name], metric.unit, draws, alpha),
            users=len({item.cluster for item in behind}),
            mcnemar_p=test,
        )
    rows = adjusted([metrics[name] for name in family])
    return metrics | dict(zip(family, rows, strict=True))


def adjusted(family: Sequence[MetricRow]) -> list[MetricRow]:
    """Rows with ``p_holm``: they are one family."""
    p = holm([row.p for row in family])
    return [replace(row, p_holm=value) for row, value in zip(family, p, strict=True)]


def means_of(
    contestants: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
) -> dict[str, dict[str, float]]:
    """Means of the contrasted metrics, by who gave the answers.

    Args:
        contestants: values by metric, by who gave the answers.
    """
    return {
        who: {name: float(np.mean(own[name])) for name in CONTRASTED if name in own}
        for who, own in contestants.items()
    }
