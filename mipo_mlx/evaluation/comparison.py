"""From what was measured of both models to intervals and tests, with users as clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mipo_mlx.evaluation.metrics import UNITS, Columns, Item
from mipo_mlx.results import ALPHA
from mipo_mlx.stats.intervals import clustered_wilson, holm, mcnemar, needed, paired_bootstrap

# What a verdict is given on, all at once: Holm's family. More is better in each.
HEADLINE = (
    "personalization/own_context_rate",
    "information/context_accuracy",
    "information/pmi",
    "reasoning/accuracy",
)
ACCURACIES = ("information/context_accuracy", "reasoning/accuracy")
STATISTICS = 2  # changes whenever the same answers give other numbers


def units(items: Sequence[Item]) -> tuple[str, list[str]]:
    """What is resampled, and which of them each item belongs to.

    Answers of one user are resampled one by one: what is seen then holds for that user.
    """
    clusters = [item.cluster for item in items]
    if len(set(clusters)) == 1 and len(items) > 1:
        return "answers", [str(index) for index in range(len(items))]
    return ("users" if any(item.context for item in items) else "prompts"), clusters


def row(
    base: np.ndarray,
    adapter: np.ndarray,
    clusters: Sequence[str],
    *,
    unit: str,
    resampled: str = "users",
    resamples: int,
    seed: int,
    alpha: float = ALPHA,
) -> dict[str, Any]:
    """A metric's row, from a value an item of both sides; clusters are resampled whole.

    Args:
        base: [n].
        adapter: of the same items [n].
        clusters: a label an item.
        unit: of the values; one that starts with "share" is a rate of 0 and 1.
        resampled: what a cluster is, in the plural.
        resamples: draws of the bootstrap.
        seed: of these.
        alpha: of the test that ``needed`` is told for.

    Returns:
        ``base``, ``adapter``, ``delta``, ``ci95`` and ``p`` of delta, ``n`` items of ``users``
        clusters, ``resampled``, ``effective_n`` (independent items worth the same), ``needed`` (how
        many resampled would show a delta of this size, power 80%, or None), ``unit``; rates have
        ``base_ci95`` and ``adapter_ci95`` (Wilson's, at the effective n).
    """
    found = paired_bootstrap(base, adapter, clusters=clusters, resamples=resamples, seed=seed)
    made = {
        "base": float(np.mean(base)),
        "adapter": float(np.mean(adapter)),
        "delta": found.delta,
        "ci95": [found.low, found.high],
        "p": found.p,
        "n": found.n,
        "users": len(set(clusters)),
        "resampled": resampled,
        "effective_n": found.effective_n,
        "needed": needed(found, alpha=alpha),
        "unit": unit,
    }
    if unit.startswith("share"):
        made["base_ci95"] = list(clustered_wilson(base, clusters))
        made["adapter_ci95"] = list(clustered_wilson(adapter, clusters))
    return made


def compare(
    base: Columns, adapter: Columns, items: Sequence[Item], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Metrics as rows with paired bootstrap 95% intervals, and tests; users are resampled whole.

    Beside what ``row`` makes, accuracies have ``mcnemar_p`` (answers taken as independent), and the
    headline metrics ``p_holm``; ``users`` counts the users of the items, whatever is resampled.
    """
    metrics: dict[str, dict[str, Any]] = {}
    family = [name for name in HEADLINE if name in base]
    for name, unit in UNITS.items():
        if name not in base:
            continue
        behind = [
            i for i in items if name != "reasoning/choice_entropy" or i.prompt.kind == "choice"
        ]
        behind = behind[: len(base[name])]
        resampled, clusters = units(behind)
        metrics[name] = row(
            base[name],
            adapter[name],
            clusters,
            unit=unit,
            resampled=resampled,
            resamples=resamples,
            seed=seed,
            alpha=ALPHA / len(family) if name in family else ALPHA,
        )
        metrics[name]["users"] = len({item.cluster for item in behind})
        if name in ACCURACIES:
            metrics[name]["mcnemar_p"] = mcnemar(base[name], adapter[name])
    for name, p in zip(family, holm([metrics[name]["p"] for name in family]), strict=True):
        metrics[name]["p_holm"] = p
    return metrics
