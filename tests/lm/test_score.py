"""Scores of given responses against one row at a time, in input order, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest

from mipo_mlx.lm import score as module
from mipo_mlx.lm.load import LanguageModel
from mipo_mlx.lm.score import ScoreRow, plan, score

from .test_prefix import plain_logprobs


def rows(count: int = 30) -> list[ScoreRow]:
    rng = np.random.default_rng(2)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, 300, rng.integers(low, high)))

    return [ScoreRow(ids(1, 25), tuple(ids(1, 9) for _ in range(1 + i % 3))) for i in range(count)]


@pytest.mark.parametrize("limit", [1, 100, 16_384])
def test_scores_equal_one_row_at_a_time_in_input_order(lm: LanguageModel, limit: int) -> None:
    items = rows()
    found = list(score(lm, items, max_batch_tokens=limit))
    assert [len(values) for values in found] == [len(item.responses) for item in items]
    for values, item in zip(found, items, strict=True):
        for value, response in zip(values, item.responses, strict=True):
            wanted = plain_logprobs(lm.model, list(item.prompt_ids), list(response)).item()
            assert value == pytest.approx(wanted, abs=1e-4)


def test_windows_change_nothing(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    items = rows()
    wanted = list(score(lm, items))
    monkeypatch.setattr(module, "WINDOW", 4)
    for found, expected in zip(score(lm, items), wanted, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_plan_covers_every_row_once_within_the_bound() -> None:
    items = rows(50)
    groups = plan(items, 300)
    assert sorted(index for group in groups for index in group) == list(range(50))
    for group in groups:
        members = [items[index] for index in group]
        counts = {len(item.responses) for item in members}
        assert len(counts) == 1
        width = max(len(item.prompt_ids) for item in members) + max(
            len(ids) for item in members for ids in item.responses
        )
        assert len(group) == 1 or len(group) * counts.pop() * width <= 300


def test_the_model_keeps_its_mode(lm: LanguageModel) -> None:
    lm.model.train()
    list(score(lm, rows(2)))
    assert lm.model.training


@pytest.mark.parametrize(
    "row", [ScoreRow((), ((1,),)), ScoreRow((1,), ()), ScoreRow((1,), ((1,), ()))]
)
def test_empty_rows_are_refused(lm: LanguageModel, row: ScoreRow) -> None:
    with pytest.raises(ValueError, match="no empty"):
        list(score(lm, [row]))
