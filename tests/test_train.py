"""The optimizer step: what holds at step 0, what training must do, and what stops it."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mipo_mlx import tiny
from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batch import EncodedPair
from mipo_mlx.errors import MipoError
from mipo_mlx.lm import adapter
from mipo_mlx.lm.forest import Row
from mipo_mlx.lm.load import LanguageModel, load_model
from mipo_mlx.lm.score import score
from mipo_mlx.objectives import TrainingRow, collate
from mipo_mlx.train import batch_loss, train

CONFIG = TrainConfig()


def rows_for(lm: LanguageModel, count: int = 6) -> list[TrainingRow]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        prompt = tuple(int(t) for t in rng.integers(4, 300, 5 + 3 * index))
        sides = tuple(
            tuple(int(t) for t in rng.integers(4, 300, int(rng.integers(2, 9)))) for _ in range(2)
        )
        (reference,) = score(lm, [Row(prompt, sides)])
        rows.append(
            TrainingRow(EncodedPair(f"p{index}", prompt, sides), (reference[0], reference[1]))
        )
    return rows


@pytest.fixture
def lm() -> LanguageModel:
    return load_model("embedded")


def attach(lm: LanguageModel) -> None:
    adapter.attach(lm, rank=4, scale=20.0, num_layers=-1, seed=0)


def test_step_zero_is_ln2_with_zero_margins_and_a_gradient(lm: LanguageModel) -> None:
    rows = rows_for(lm)
    attach(lm)
    (first, *_) = train(lm, rows, TrainConfig(batch_size=6, learning_rate=1e-3), seed=0)
    assert first.values["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first.values["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert first.values["grad_norm"] > 1e-3


def test_training_raises_the_margin_of_its_pairs(lm: LanguageModel) -> None:
    rows = rows_for(lm)
    attach(lm)
    config = TrainConfig(batch_size=6, learning_rate=1e-3, epochs=30, warmup=0.0)
    steps = list(train(lm, rows, config, seed=0))
    assert len(steps) == 30
    assert steps[-1].values["rewards/margins"] > 0.5
    assert steps[-1].values["loss"] < 0.5


def test_shared_prompts_and_answers_stand_once_and_change_no_loss_or_gradient(
    lm: LanguageModel,
) -> None:
    base = rows_for(lm, 4)
    context = tuple(range(50, 90))
    rows = []
    for n, row in enumerate(base):  # two prompts of one context, each with a chosen and two others
        prompt = (*context, *base[n // 2].encoded.prompt_ids)
        chosen = base[n // 2].encoded.responses[0]
        sides = (chosen, row.encoded.responses[1])
        rows.append(TrainingRow(EncodedPair(f"p{n}", prompt, sides, "user"), (-3.0 * n, -4.0)))
    attach(lm)
    list(train(lm, base, TrainConfig(batch_size=4, learning_rate=1e-2), seed=0))  # B is not 0
    batch = collate(rows)
    assert batch.forest.stems.shape == (1, len(context))
    assert batch.forest.last.shape == (2,)
    assert batch.forest.responses.shape[0] == 6
    grad = nn.value_and_grad(lm.model, lambda *args: batch_loss(*args)[0])
    loss, gradient = grad(lm.model, batch, CONFIG)
    alone = [grad(lm.model, collate([row]), CONFIG) for row in rows]
    assert loss.item() == pytest.approx(sum(one.item() for one, _ in alone), abs=1e-5)
    for name, ours in tree_flatten(gradient):
        parts = np.stack([np.array(dict(tree_flatten(g))[name]) for _, g in alone])
        scale = np.linalg.norm(parts, axis=0).max()  # parts may cancel in the mean
        np.testing.assert_allclose(np.array(ours), parts.sum(axis=0), rtol=0, atol=1e-5 * scale)


def test_flipped_pairs_negate_the_margin(lm: LanguageModel) -> None:
    rows = rows_for(lm)
    flipped = [
        TrainingRow(
            EncodedPair(r.encoded.id, r.encoded.prompt_ids, r.encoded.responses[::-1]),
            r.reference[::-1],
        )
        for r in rows
    ]
    attach(lm)
    list(train(lm, rows, TrainConfig(batch_size=6, learning_rate=1e-3, epochs=3), seed=0))
    _, ahead = batch_loss(lm.model, collate(rows), CONFIG)
    _, back = batch_loss(lm.model, collate(flipped), CONFIG)
    np.testing.assert_allclose(
        np.array(ahead["rewards/margins"]), -np.array(back["rewards/margins"]), atol=1e-5
    )
    assert float(mx.abs(ahead["rewards/margins"]).max()) > 1e-3


def test_every_pair_is_trained_once_an_epoch_and_the_last_batch_is_kept(lm: LanguageModel) -> None:
    rows = rows_for(lm, 7)
    attach(lm)
    steps = list(train(lm, rows, TrainConfig(batch_size=3, learning_rate=0.0, epochs=2), seed=0))
    assert [step.total_steps for step in steps] == [6] * 6
    tokens = sum(len(r.encoded.prompt_ids) + sum(map(len, r.encoded.responses)) for r in rows)
    assert steps[2].values["num_tokens"] == tokens
    assert steps[-1].values["num_tokens"] == 2 * tokens


def test_a_loss_that_is_not_finite_stops_and_names_the_pairs(lm: LanguageModel) -> None:
    rows = rows_for(lm, 2)
    bad = [TrainingRow(rows[0].encoded, (float("nan"), 0.0)), rows[1]]
    attach(lm)
    with pytest.raises(MipoError, match=r"not finite.*p[01]"):
        list(train(lm, bad, TrainConfig(batch_size=2), seed=0))


def test_the_embedded_model_is_a_folder() -> None:
    assert (Path(tiny.MODEL_DIR) / "config.json").is_file()
