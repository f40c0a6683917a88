"""A step cut into micro-batches, and one in half precision, against the stock model's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair, pad_right
from mipo_mlx.models.architecture import other_states
from mipo_mlx.models.load import LanguageModel, Paths
from mipo_mlx.training import collate
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.trainer import Trainer

from . import archs
from .test_forest import plain_logprobs, relative, with_lora

NAMES = sorted(archs.KNOWN)
CUTS: dict[str, dict[str, int]] = {
    "1 x 4": {"batch_size": 4},
    "4 x 1": {"batch_size": 1, "gradient_accumulation_steps": 4},
    "4 in micro-batches of 1": {"batch_size": 4, "micro_batch_size": 1},
    "2 x 2": {"batch_size": 2, "gradient_accumulation_steps": 2},
    "1 at once, prompts by 3 tokens": {"batch_size": 4, "micro_batch_size": 1, "prompt_piece": 3},
    "all at once, prompts by 4 tokens": {"batch_size": 4, "prompt_piece": 4},
}
BETA = 0.1


def step_rows(negatives: int, seed: int = 6) -> list[TrainingRow]:
    """Four rows of a chosen and ``negatives`` rejected answers, 1 to 9 tokens each.

    The first and third are of one user, whose context stands before both.
    """
    rng = np.random.default_rng(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, archs.VOCAB, count))

    rows, context = [], ids(7)
    for index, length in enumerate((5, 1, 2, 9)):
        lengths = rng.permutation(9)[: 1 + negatives] + 1
        answers = tuple(ids(int(n)) for n in lengths)
        start, group = ((), "") if index % 2 else (context, "user")
        encoded = EncodedPair(f"p{index}", start + ids(length), answers, group)
        rows.append(TrainingRow(encoded, tuple((-6.0 * lengths).tolist())))
    return rows


def trainer(model: Any, rows: list[TrainingRow], **options: Any) -> Trainer:
    """Of these rows in one optimizer step."""
    lm = LanguageModel(
        model, None, Path(), "random", "", None, paths=Paths(shares=not other_states(model))
    )
    made = Trainer(lm, rows, TrainConfig(beta=BETA, **options), seed=0)
    assert made.total == 1
    return made


def of_ratios(logps: mx.array, row: TrainingRow) -> mx.array:
    """The loss of a row, from log-probs of its answers and from its paper: logsumexp(r) - r+."""
    rewards = BETA * (logps - mx.array(row.reference))
    return mx.logsumexp(rewards) - rewards[0]


def stock_gradient(model: Any, rows: list[TrainingRow], logps_of: Any) -> tuple[float, Any]:
    """Mean loss and its gradient, the log-probs of a row's answers by ``logps_of(model, row)``."""

    def loss(model: Any) -> mx.array:
        each = [of_ratios(logps_of(model, row), row) for row in rows]
        return mx.stack(each).mean()

    value, grads = nn.value_and_grad(model, loss)(model)
    mx.eval(value, grads)
    return value.item(), grads


def one_by_one(model: Any, row: TrainingRow) -> mx.array:
    """No cache, no padding, an answer at a time."""
    prompt = list(row.encoded.prompt_ids)
    return mx.stack([plain_logprobs(model, prompt, list(ids)) for ids in row.encoded.responses])


def side_by_side(model: Any, row: TrainingRow) -> mx.array:
    """The plain step of a pair: prompt and answer once more for each, padded on the right."""
    prompt = row.encoded.prompt_ids
    tokens, real = (
        mx.array(array) for array in pad_right([prompt + ids for ids in row.encoded.responses])
    )
    logps = nn.log_softmax(model(tokens[:, :-1]).astype(mx.float32), axis=-1)
    picked = mx.take_along_axis(logps, tokens[:, 1:, None], axis=-1)[..., 0]
    answer = real[:, 1:] & (mx.arange(1, tokens.shape[1]) >= len(prompt))
    return mx.where(answer, picked, 0.0).sum(axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_four_rows_are_four_batches_of_one_accumulated(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted: list[int] = []

    def counted(planting: Any, rows: Any, *stems: Any) -> Any:
        planted.append(len(rows))
        return planting(rows, *stems)

    for way in ("plant", "alone"):
        monkeypatch.setattr(collate, way, partial(counted, getattr(collate, way)))
    model = with_lora(name).train()
    rows = step_rows(4)
    value, wanted = stock_gradient(model, rows, one_by_one)
    found: dict[str, tuple[float, Any]] = {}
    for how, options in CUTS.items():
        figures, grads = trainer(model, rows, loss="mipo", **options).gradient(rows)
        found[how] = figures["loss"], grads
    assert planted == [4, *[1] * 8, 2, 2, *[1] * 4, 4]
    for loss, grads in found.values():
        assert loss == pytest.approx(value, abs=2e-5)
        assert relative(grads, wanted) < 1e-5
        assert relative(grads, found["1 x 4"][1]) <= 1e-5


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3"])
def test_a_shared_step_in_bf16_is_as_close_to_fp32_as_the_plain_one(
    name: str, recompute: bool
) -> None:
    """The weights are the same numbers in both precisions, so that arithmetic alone differs."""
    for seed in range(4):
        rough = with_lora(name).train()
        rough.set_dtype(mx.bfloat16)
        exact = with_lora(name).train()
        exact.update(tree_map(lambda array: array.astype(mx.float32), rough.parameters()))
        rows = step_rows(1, seed)
        _, wanted = stock_gradient(exact, rows, one_by_one)
        _, two_rows = stock_gradient(rough, rows, side_by_side)
        options = {"batch_size": 4, "gradient_checkpointing": recompute}
        _, shared = trainer(rough, rows, **options).gradient(rows)
        ours, plain = relative(shared, wanted), relative(two_rows, wanted)
        assert 1e-3 < plain < 0.2  # there is rounding to be compared
        assert ours <= 1.5 * plain + 1e-4
