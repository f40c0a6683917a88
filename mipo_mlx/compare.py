"""From what was measured of both models to intervals and tests, with users as clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mipo_mlx.core.stats import clustered_wilson, holm, mcnemar, needed, paired_bootstrap
from mipo_mlx.evaluate import UNITS, Columns, Item
from mipo_mlx.report import ALPHA

# What a verdict is given on, all at once: Holm's family. More is better in each.
HEADLINE = (
    "personalization/own_context_rate",
    "information/context_accuracy",
    "information/pmi",
    "reasoning/accuracy",
)
ACCURACIES = ("information/context_accuracy", "reasoning/accuracy")
STATISTICS = 2  # changes whenever the same answers give other numbers


def _units(items: Sequence[Item]) -> tuple[str, list[str]]:
    """What is resampled, and which of them each item belongs to.

    Answers of one user are resampled one by one: what is seen then holds for that user.
    """
    clusters = [item.cluster for item in items]
    if len(set(clusters)) == 1 and len(items) > 1:
        return "answers", [str(index) for index in range(len(items))]
    return ("users" if any(item.context for item in items) else "prompts"), clusters


def compare(
    base: Columns, adapter: Columns, items: Sequence[Item], *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Metrics with paired bootstrap 95% intervals, and tests; users are resampled whole.

    Each has ``base``, ``adapter``, ``delta``, ``ci95`` and ``p`` of delta, ``n`` answers of
    ``users``, ``resampled`` (users, prompts or answers), ``effective_n`` (independent answers worth
    the same), ``needed`` (how many resampled would show a delta of this size, power 80%, or None)
    and ``unit``. Rates have ``base_ci95`` and ``adapter_ci95`` (Wilson's, at the effective n),
    accuracies ``mcnemar_p`` (answers taken as independent), and the headline metrics ``p_holm``.
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
        resampled, clusters = _units(behind)
        found = paired_bootstrap(
            base[name], adapter[name], clusters=clusters, resamples=resamples, seed=seed
        )
        row = metrics[name] = {
            "base": float(base[name].mean()),
            "adapter": float(adapter[name].mean()),
            "delta": found.delta,
            "ci95": [found.low, found.high],
            "p": found.p,
            "n": found.n,
            "users": len({item.cluster for item in behind}),
            "resampled": resampled,
            "effective_n": found.effective_n,
            "needed": needed(found, alpha=ALPHA / len(family) if name in family else ALPHA),
            "unit": unit,
        }
        if unit.startswith("share"):
            row["base_ci95"] = list(clustered_wilson(base[name], clusters))
            row["adapter_ci95"] = list(clustered_wilson(adapter[name], clusters))
        if name in ACCURACIES:
            row["mcnemar_p"] = mcnemar(base[name], adapter[name])
    for name, p in zip(family, holm([metrics[name]["p"] for name in family]), strict=True):
        metrics[name]["p_holm"] = p
    return metrics
