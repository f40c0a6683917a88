"""Scores of given responses against one row at a time, in input order, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest

from mipo_mlx.inference import lm_head
from mipo_mlx.inference import scoring as module
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.scoring import plan, score, score_tokens, waves
from mipo_mlx.models.load import LanguageModel

from .test_forest import plain_logprobs


def rows(count: int = 30) -> list[Row]:
    rng = np.random.default_rng(2)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, 300, rng.integers(low, high)))

    heads = [ids(5, 30), ids(2, 9)]
    made = []
    for index in range(count):
        group = ("a", "b", "")[index % 3]
        prompt = (heads[index % 3] if group else ()) + ids(1, 25)
        made.append(Row(prompt, tuple(ids(1, 9) for _ in range(1 + index % 4)), group))
    return made


@pytest.mark.parametrize("limit", [1, 100, 16_384])
def test_scores_equal_one_row_at_a_time_in_input_order(lm: LanguageModel, limit: int) -> None:
    items = rows()
    found = list(score(lm, items, max_batch_tokens=limit))
    assert [len(values) for values in found] == [len(item.responses) for item in items]
    for values, item in zip(found, items, strict=True):
        for value, response in zip(values, item.responses, strict=True):
            wanted = plain_logprobs(lm.model, list(item.prompt_ids), list(response)).item()
            assert value == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("way", ["numpy", "graph"])
@pytest.mark.parametrize("limit", [100, 16_384])
def test_tokens_scores_equal_one_row_at_a_time(
    lm: LanguageModel, limit: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "graph":
        monkeypatch.setattr(lm_head, "on_cpu", lambda: False)
    items = rows(12)
    for arrays, item in zip(score_tokens(lm, items, max_batch_tokens=limit), items, strict=True):
        for found, response in zip(arrays, item.responses, strict=True):
            prompt = list(item.prompt_ids)
            ends = [
                plain_logprobs(lm.model, prompt, list(response[:t])).item()
                for t in range(1, len(response) + 1)
            ]
            np.testing.assert_allclose(found.cumsum(), ends, atol=1e-4)


def test_windows_change_nothing(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    items = rows()
    wanted = list(score(lm, items))
    monkeypatch.setattr(module, "WINDOW", 4)
    for found, expected in zip(score(lm, items), wanted, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_waves_and_plans_cover_every_row_once_within_the_bound() -> None:
    items = rows(50)
    made = waves(items, 200)
    assert sorted(index for wave in made for index in wave) == list(range(50))
    assert len(made) > 1
    for group in ("a", "b"):  # stems are never forwarded twice
        assert sum(any(items[index].group == group for index in wave) for wave in made) == 1
    for wave in made:
        batches = plan(items, wave, 300)
        assert sorted(index for batch in batches for index in batch) == sorted(wave)
        for batch in batches:
            members = [items[index] for index in batch]
            sides = [side for item in members for side in item.responses]
            width = max(len(item.prompt_ids) for item in members) + max(map(len, sides))
            assert len(batch) == 1 or len(sides) * width <= 300


def test_the_model_keeps_its_mode(lm: LanguageModel) -> None:
    lm.model.train()
    list(score(lm, rows(2)))
    assert lm.model.training


@pytest.mark.parametrize("row", [Row((), ((1,),)), Row((1,), ()), Row((1,), ((1,), ()))])
def test_empty_rows_are_refused(lm: LanguageModel, row: Row) -> None:
    with pytest.raises(ValueError, match="no empty"):
        list(score(lm, [row]))
