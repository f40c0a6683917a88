"""What the probe finds of models that run our way, and of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx.errors import ModelError
from mipo_mlx.inference.prefix_tree import Row, alone, plant, sequence_logprobs
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.architecture import other_states
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.compat_check import probe
from mipo_mlx.training.gradients import loss_gradient

from . import archs
from .test_forest import SMALL, plain, ragged, relative, with_lora
from .test_gradient import by_rows, contrast

PAIR = (tuple(range(40, 70)), ((5, 6, 7, 8), (9, 10, 11)))
HYBRID = sorted(archs.HYBRIDS)


def opened(model: Any) -> LanguageModel:
    return LanguageModel(model, None, Path("."), "it", "", None, shares=not other_states(model))


@pytest.mark.parametrize("name", sorted([*archs.ARCHS, *archs.MORE_ARCHS]))
def test_models_with_plain_attention_pass(name: str) -> None:
    lm = opened(with_lora(name))
    assert probe(lm, *PAIR) == ""
    assert lm.shares and lm.splits
    assert not lm.model.training


@pytest.mark.parametrize("name", HYBRID)
def test_models_with_other_states_train_on_whole_rows(name: str) -> None:
    lm = opened(with_lora(name))
    line = probe(lm, *PAIR)
    assert "whole prompt" in line and "layers keep" in line
    assert not lm.shares and lm.splits
    model, rows = lm.model.train(), ragged(2)
    margin, wanted = by_rows(model, rows)
    for recompute in (False, True):
        told, grads = loss_gradient(model, alone(rows), contrast, budget=SMALL, recompute=recompute)
        np.testing.assert_allclose(np.array(told["margin"]), np.array(margin), atol=2e-4)
        assert relative(grads, wanted) < 5e-5  # recurrences add their own rounding
    found = [value for values in score(lm, rows) for value in values]
    np.testing.assert_allclose(found, np.array(plain(model, rows)), atol=2e-4)


def test_a_forest_that_shares_nothing_says_the_same() -> None:
    model, rows = archs.build("llama"), ragged(3)
    one, other = (sequence_logprobs(model, forest) for forest in (alone(rows), plant(rows)))
    np.testing.assert_allclose(np.array(one), np.array(other), atol=2e-4)
    single = [Row((7,), ((8, 9), (3,)))]
    np.testing.assert_allclose(
        np.array(sequence_logprobs(model, alone(single))), np.array(plain(model, single)), atol=2e-4
    )


class Twofold(type(archs.build("llama"))):  # type: ignore[misc]
    """A head that looks at the backbone's input too, so that it cannot be run apart."""

    def __call__(self, inputs: mx.array, cache: Any = None, **kwargs: Any) -> mx.array:
        shift = 0.5 * mx.cos(inputs.astype(mx.float32))[..., None]
        return super().__call__(inputs, cache=cache) * (1 + shift)


def test_a_head_that_cannot_be_run_apart_is_run_whole() -> None:
    model = with_lora("llama")
    model.__class__ = Twofold
    lm = opened(model)
    assert "at once" in probe(lm, *PAIR)
    assert lm.shares and not lm.splits


def test_a_model_that_forgets_its_cache_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora("llama")
    backbone = type(model.model)
    whole = backbone.__call__

    def forgetful(self: Any, inputs: mx.array, cache: Any = None, *args: Any) -> mx.array:
        return whole(self, inputs, None, *args)

    monkeypatch.setattr(backbone, "__call__", forgetful)
    lm = opened(model)
    line = probe(lm, *PAIR)
    assert "whole prompt" in line
    assert not lm.shares and lm.splits


def test_a_model_that_gives_no_numbers_is_told() -> None:
    model = with_lora("llama")
    model.model.norm.weight = model.model.norm.weight * float("nan")
    with pytest.raises(ModelError, match="not finite"):
        probe(opened(model), *PAIR)
