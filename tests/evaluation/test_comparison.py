"""From columns to rows with intervals and tests, and from rows to what a report says of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from mipo_mlx.config import resolve
from mipo_mlx.evaluation.comparison import ACCURACIES, HEADLINE, compare
from mipo_mlx.evaluation.metrics import Columns
from mipo_mlx.evaluation.questions import Item
from mipo_mlx.reporting.evidence import Plots, provenance
from mipo_mlx.reporting.format import change
from mipo_mlx.reporting.markdown import markdown
from mipo_mlx.reporting.narrative.changes import verdict
from mipo_mlx.reporting.summary import summarise
from mipo_mlx.results import METRICS, EvalResult, MetricRow
from mipo_mlx.results.rows import rows_from_json
from mipo_mlx.types import Context, Prompt

OWN = "personalization/own_context_rate"
PMI = "information/pmi"
ACCURACY = "reasoning/accuracy"


def items(users: int, each: int) -> list[Item]:
    return [
        Item(Context(f"user{user}", "I row."), Prompt(f"prompt{turn}", "What now?"))
        for user in range(users)
        for turn in range(each)
    ]


def rows(base: Columns, adapter: Columns, behind: list[Item]) -> dict[str, MetricRow]:
    found = compare(base, adapter, behind, resamples=1000, seed=0)
    kept = {name: row.to_json() for name, row in found.items()}
    assert rows_from_json(json.loads(json.dumps(kept, allow_nan=False))) == found
    return found


def columns(seed: int, n: int, gain: float) -> tuple[Columns, Columns]:
    """All metrics of both models; ``gain`` in standard deviations, or as a share."""
    rng = np.random.default_rng(seed)
    base: Columns = {}
    adapter: Columns = {}
    for name, metric in METRICS.items():
        if metric.unit.startswith("share"):
            base[name] = (rng.random(n) < 0.5).astype(float)
            adapter[name] = (rng.random(n) < 0.5 + gain).astype(float)
        else:
            base[name] = rng.normal(size=n)
            adapter[name] = base[name] + rng.normal(gain, 1, n)
    return base, adapter


def test_rows_hold_what_each_kind_of_metric_needs() -> None:
    behind = [
        Item(item.context, Prompt(item.prompt.id, "A or B?", "A", "choice"))
        for item in items(32, 4)
    ]
    base, adapter = columns(0, 128, 0.3)
    found = rows(base, adapter, behind)
    assert list(found) == list(METRICS)
    for name, row in found.items():
        assert (row.p_holm is not None) == (name in HEADLINE)
        assert (row.mcnemar_p is not None) == (name in ACCURACIES)
        both = (row.base_ci95 is not None, row.adapter_ci95 is not None)
        assert both == (row.unit.startswith("share"),) * 2
        assert (row.users, row.n, row.resampled) == (32, 128, "users")
        if row.base_ci95 and row.adapter_ci95:
            assert 0 <= row.base_ci95[0] < row.base < row.base_ci95[1] <= 1
            assert 0 <= row.adapter_ci95[0] < row.adapter < row.adapter_ci95[1] <= 1
        assert row.effective_n and 30 < row.effective_n <= 128
    adjusted = multipletests([found[name].p for name in HEADLINE], method="holm")[1]
    np.testing.assert_allclose([found[name].p_holm for name in HEADLINE], adjusted)
    # A family of four is judged at 5% / 4, so it takes more users than a metric alone.
    alone = rows({PMI: base[PMI]}, {PMI: adapter[PMI]}, behind)[PMI]
    assert alone.p_holm == alone.p == found[PMI].p
    ratio = ((norm.isf(0.00625) + norm.isf(0.2)) / (norm.isf(0.025) + norm.isf(0.2))) ** 2
    assert found[PMI].needed == pytest.approx(ratio * alone.needed, abs=2)


def test_answers_of_one_user_are_resampled_and_prompts_where_there_is_no_user() -> None:
    alone = [
        Item(Context(f"part{k % 2}", "I row.", user="me"), Prompt(f"p{k}", "?")) for k in range(20)
    ]
    rng = np.random.default_rng(1)
    base, adapter = {PMI: np.zeros(20)}, {PMI: rng.normal(0.2, 1, 20)}
    row = rows(base, adapter, alone)[PMI]
    assert (row.users, row.resampled, row.n) == (1, "answers", 20)
    half = 2.093 * adapter[PMI].std(ddof=1) / math.sqrt(20)  # Student's t, 19 degrees of freedom
    assert row.ci95[0] <= row.delta - 0.99 * half and row.ci95[0] < 0 < row.ci95[1]
    assert "no difference seen at n = 20 answers; n = " in verdict({PMI: row})
    prompts = [Item(None, Prompt(f"p{k % 10}", "?")) for k in range(20)]
    row = rows(base, adapter, prompts)[PMI]
    assert (row.users, row.resampled) == (10, "prompts")


def test_choice_entropy_is_of_the_choice_items_alone() -> None:
    behind = [
        Item(None, Prompt(f"p{k}", "?", "A", "choice" if k % 3 else "open")) for k in range(9)
    ]
    name = "reasoning/choice_entropy"
    row = rows({name: np.zeros(6)}, {name: np.arange(6.0)}, behind)[name]
    assert (row.n, row.users) == (6, 6)
    assert row.delta == 2.5


TOLD = MetricRow(
    **{"base": 0.5, "adapter": 0.6, "delta": 0.1, "ci95": (0.02, 0.18), "p": 0.02, "n": 256},
    **{"users": 64, "resampled": "users", "effective_n": 200.0, "needed": 88, "p_holm": 0.04},
    unit="share of answers",
)


def told(**more: Any) -> MetricRow:
    return replace(TOLD, **more)


def test_a_gain_needs_an_interval_clear_of_zero_that_holm_keeps() -> None:
    assert change(told()) == "rose"
    assert change(told(p_holm=0.06)) == "none seen"
    assert change(told(ci95=(0.0, 0.2))) == "none seen"
    assert change(told(ci95=(-0.01, 0.2), p_holm=0.01)) == "none seen"
    assert change(told(ci95=(-0.2, -0.01), adapter=0.4)) == "fell"
    assert change(told(ci95=(0.01, 0.2), p_holm=None)) == "rose"
    assert change(told(ci95=(math.nan, math.nan))) == "none seen"


def test_the_verdict_names_gains_falls_and_how_many_would_show_the_rest() -> None:
    lines = verdict(
        {
            OWN: told(),
            PMI: told(ci95=(-0.2, -0.01), adapter=0.4, unit="nats"),
            ACCURACY: told(p_holm=0.06),
            "length/response_tokens": told(p_holm=None),
        }
    ).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{OWN}: gain, 50.0% -> 60.0% of answers (95% interval of the")
    assert lines[0].endswith("+2.0 to +18.0 points, Holm p 0.04, n = 64 users).")
    assert lines[1].startswith(f"{PMI}: fall, 0.5 -> 0.4 nats")
    wanted = "no difference seen at n = 64 users; n = 88 would show one of this size (50.0% -> 60"
    assert lines[2].startswith(f"{ACCURACY}: {wanted}")
    assert "gain" not in lines[2]
    none = verdict({PMI: told(delta=0.0, ci95=(-1.0, 1.0), p=1.0, p_holm=1.0, needed=None)})
    assert "no difference seen at n = 64 users (" in none
    assert "n = 65 would show" in verdict({PMI: told(p_holm=0.06, needed=40)})
    assert verdict({}) == "Nothing was measured."


def test_a_difference_that_is_not_seen_asks_for_more_than_there_are() -> None:
    behind = items(24, 3)
    for seed in range(12):
        base, adapter = columns(seed, 72, 0.15)
        found = rows({PMI: base[PMI]}, {PMI: adapter[PMI]}, behind)[PMI]
        if change(found) == "none seen":
            assert found.needed and found.needed > 24


def test_verdicts_without_effect_claim_something_in_at_most_one_of_twenty() -> None:
    behind = items(30, 4)
    claims = 0
    for seed in range(200):
        base, adapter = columns(seed, 120, 0.0)
        some = ({name: side[name] for name in HEADLINE} for side in (base, adapter))
        found = compare(*some, behind, resamples=400, seed=seed)
        claims += any(change(row) != "none seen" for row in found.values())
    assert claims / 200 <= 0.07


def test_markdown_shows_intervals_tests_and_counts() -> None:
    metrics = {OWN: told(base_ci95=(0.4, 0.6), adapter_ci95=(0.5, 0.7), mcnemar_p=0.013)}
    config = resolve()
    origin = provenance({}, config)
    text = markdown(summarise(EvalResult(metrics), Plots(), origin, config))
    wanted = (
        "50.0% [40.0%, 60.0%] | 60.0% [50.0%, 70.0%] | +10.0 points [+2.0, +18.0] | rose | 0.02 | "
        "0.04 | 0.013 | 256"
    )
    assert f"| {OWN} | {wanted} | 64 | 200 | share of answers |\n" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_results_of_an_older_version_are_not_read_as_if_they_were_tested() -> None:
    old = {"base": 0.5, "adapter": 0.6, "delta": 0.1, "ci95": [0.1, 0.2], "n": 9, "unit": "nats"}
    with pytest.raises(TypeError, match="'p'"):
        rows_from_json({PMI: old})
