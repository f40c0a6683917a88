"""The optimizer step: what holds at step 0, what training must do, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mipo_mlx import tiny
from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import DataError, MipoError
from mipo_mlx.inference.prefix_tree import Row, sequence_logprobs
from mipo_mlx.inference.scoring import score
from mipo_mlx.models import lora
from mipo_mlx.models.load import LanguageModel, load_model
from mipo_mlx.run_dir.store import RunStore
from mipo_mlx.training.collate import Batch, TrainingRow, collate
from mipo_mlx.training.memory_plan import micro_batches
from mipo_mlx.training.objectives import (
    Custom,
    Hinge,
    InfoNCE,
    Objective,
    Scores,
    losses,
    objective_of,
)
from mipo_mlx.training.step import Gradients, ideal_tokens
from mipo_mlx.training.trainer import Trainer, train
from samples import steady

CONFIG = TrainConfig()


def batch_loss(
    model: Any, batch: Batch, config: TrainConfig
) -> tuple[mx.array, dict[str, mx.array]]:
    """Summed loss of a batch's rows in one graph, and each row's figures."""
    scores = Scores.of(batch, sequence_logprobs(model, batch.forest))
    each, figures = losses(objective_of(config), scores, config.nll_weight)
    return each.sum(), figures


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
    lora.attach(lm, rank=4, scale=20.0, num_layers=-1, seed=0)


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
    options: dict[str, Any] = {"stop_saturated": False, "stop_diverged": False}
    config = TrainConfig(batch_size=6, learning_rate=1e-3, epochs=30, warmup=0.0, **options)
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


@pytest.mark.parametrize("loss", ["sigmoid", "mipo", "infonce"])
def test_eight_pairs_at_once_are_eight_batches_of_one_accumulated(loss: str) -> None:
    steps = []
    for options in (
        {"batch_size": 8},
        {"batch_size": 1, "gradient_accumulation_steps": 8},
        {"batch_size": 8, "micro_batch_size": 3, "gradient_checkpointing": True},
    ):
        lm = load_model("embedded")
        rows = [replace(row, other_prompt_ids=(7, 8, 9)) for row in rows_for(lm, 8)]
        attach(lm)
        config = TrainConfig(loss=loss, learning_rate=1.0, max_grad_norm=0.0, warmup=0.0, **options)
        trainer = Trainer(lm, rows, config, seed=0)
        assert trainer.total == 1
        caught: list[Any] = []
        update = trainer.optimizer.update
        trainer.optimizer.update = lambda model, grads, keep=caught: keep.append(grads)
        (step,) = trainer.run()
        trainer.optimizer.update = update
        steps.append((step.values["loss"], dict(tree_flatten(caught[0]))))
    (loss_value, wanted), *others = steps
    for value, grads in others:
        assert value == pytest.approx(loss_value, abs=1e-6)
        gap = sum(float(((grads[name] - wanted[name]) ** 2).sum()) for name in wanted)
        norm = sum(float((wanted[name] ** 2).sum()) for name in wanted)
        assert norm > 0
        assert (gap / norm) ** 0.5 < 1e-5


def of_numpy(name: str, policy: np.ndarray, reference: np.ndarray, n: np.ndarray) -> float:
    """The losses of one row, by float64 and from their papers; sides are chosen, rejected..."""
    beta, smoothing = 0.3, 0.1
    ratio = beta * (policy - reference)
    margin = ratio[0] - ratio[1]
    return {
        "sigmoid": 0.9 * np.log1p(np.exp(-margin)) + smoothing * np.log1p(np.exp(margin)),
        "ipo": (margin / beta - 1 / (2 * beta)) ** 2,
        "hinge": max(0.0, 1 - margin),
        "sft": -policy[0] / n[0],
        "mipo": -np.log(np.exp(ratio[0]) / np.exp(ratio).sum()),
    }[name]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "sft", "mipo"])
def test_losses_of_rows_equal_their_formulas(loss: str, normalized: bool) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for index, k in enumerate((1, 3, 1, 2)):
        prompt = tuple(int(t) for t in rng.integers(4, 99, 6))
        chosen = tuple(int(t) for t in rng.integers(4, 99, 5))
        for n in range(k):
            other = tuple(int(t) for t in rng.integers(4, 99, 2 + n))
            values = (float(-10 - index), float(-8 - n - index))
            rows.append(TrainingRow(EncodedPair(f"{index}/{n}", prompt, (chosen, other)), values))
    config = TrainConfig(
        loss=loss, beta=0.3, label_smoothing=0.1, nll_weight=0.5, length_normalization=normalized
    )
    objective = objective_of(config)
    arranged = objective.arrange(rows)
    assert len(arranged) == (4 if loss == "mipo" else 7)
    batch = collate(arranged)
    logps = mx.array(rng.uniform(-12, -6, batch.forest.responses.shape[0]).astype(np.float32))
    found, figures = losses(objective, Scores.of(batch, logps), config.nll_weight)
    for place, row in enumerate(arranged):
        k = len(row.encoded.responses)
        policy = np.array(logps)[np.array(batch.sides)[place, :k]].astype(np.float64)
        lengths = np.array([len(ids) for ids in row.encoded.responses], float)
        reference = np.array(row.reference)
        raw = policy
        if normalized and loss != "sft":
            policy, reference = policy / lengths, reference / lengths
        wanted = of_numpy(loss, policy, reference, lengths) - 0.5 * raw[0] / lengths[0]
        assert found[place].item() == pytest.approx(wanted, rel=1e-5)
        assert figures["kl"][place].item() == pytest.approx(row.reference[0] - raw[0], rel=1e-5)


def test_grids_hold_both_answers_under_both_prompts(lm: LanguageModel) -> None:
    """On the very numbers of the printed vectors: s of (prompt, answer)."""
    prompts, answers = ((5, 6, 7), (8, 9)), ((11, 12), (13, 14, 15))
    row = TrainingRow(EncodedPair("p", prompts[0], answers), (0.0, 0.0), prompts[1])
    batch = collate([row], crossed=True)
    table = {(0, 0): -40.0, (0, 1): -75.0, (1, 0): -58.0, (1, 1): -31.0}
    logps = np.zeros(4, dtype=np.float32)
    for prompt, places in enumerate((batch.sides, batch.other_sides)):
        for answer in range(2):
            place = int(places[0, answer].item())
            ids = np.array(batch.forest.responses)[place][np.array(batch.forest.mask)[place]]
            assert tuple(ids.tolist()) == answers[answer]
            logps[place] = table[prompt, answer]
    found, _ = losses(InfoNCE(), Scores.of(batch, mx.array(logps)))
    assert found.item() == pytest.approx(0.552173, abs=1e-6)
    with pytest.raises(DataError, match="infonce needs the prompt"):
        InfoNCE().arrange(rows_for(lm, 2))


def test_rows_of_a_long_context_stay_together_and_others_are_cut_apart() -> None:
    context = tuple(range(100, 400))

    def row(name: str, prompt: tuple[int, ...], group: str = "") -> TrainingRow:
        return TrainingRow(EncodedPair(name, prompt, ((1, 2), (3, 4)), group), (0.0, 0.0))

    rows = [row(f"a{n}", (*context, 50 + n), "a") for n in range(3)]
    rows += [row(f"b{n}", tuple(range(60 * n, 60 * n + 50))) for n in range(1, 4)]
    assert micro_batches(rows, 0, 1) == [[0, 1, 2], [3], [4], [5]]
    assert micro_batches(rows, 2, 1) == [[0, 1], [2], [3], [4], [5]]
    assert micro_batches(rows, 0, 10_000) == [[0, 1, 2, 3, 4, 5]]
    packed = micro_batches(rows, 0, 110)
    assert packed == [[0, 1, 2], [3, 4], [5]]


def test_a_context_in_pieces_is_forwarded_once_for_all_its_pairs() -> None:
    lm = load_model("embedded")
    attach(lm)
    rng = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(10, 500, count).tolist())

    context = ids(90)
    rows = [
        TrainingRow(EncodedPair(f"p{n}", context + ids(4 + n), (ids(6), ids(5)), "a"), (-9.0, -8.0))
        for n in range(4)
    ]
    found = {}
    for name, options in {
        "whole": {},
        "cut": {"micro_batch_size": 1},
        "in pieces": {"micro_batch_size": 1, "prompt_piece": 40},
    }.items():
        config = TrainConfig(batch_size=4, **options)  # type: ignore[arg-type]
        gradients = Gradients(lm, config)
        values, grads = gradients(rows)
        found[name] = gradients.forwarded, values["loss"], grads
    whole, cut, pieces = (found[name] for name in ("whole", "cut", "in pieces"))
    assert pieces[0] == whole[0] == ideal_tokens(rows, False)
    assert cut[0] > whole[0] + 3 * len(context) - 12
    assert pieces[1] == pytest.approx(whole[1], rel=1e-6)
    wanted = dict(tree_flatten(whole[2]))
    gaps = {
        name: float(((grad - wanted[name]) ** 2).sum()) for name, grad in tree_flatten(pieces[2])
    }
    assert (
        sum(gaps.values()) ** 0.5 < 1e-5 * sum((g**2).sum().item() for g in wanted.values()) ** 0.5
    )


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_run_that_goes_on_from_any_step_ends_with_the_same_bits(
    stop: int, tmp_path: Path
) -> None:
    config = TrainConfig(batch_size=2, epochs=2, learning_rate=1e-3, eval_every=2)

    def trainer() -> Trainer:
        lm = load_model("embedded")
        rows = rows_for(lm, 7)
        attach(lm)
        return Trainer(lm, rows[:5], config, seed=3, validation=rows[5:])

    whole = trainer()
    log = [steady(step.values) for step in whole.run()]
    assert len(log) == 6
    first = trainer()
    steps = first.run()
    part = [steady(next(steps).values) for _ in range(stop)]
    store = RunStore(tmp_path)
    arrays, counters = first.snapshot()
    store.write_arrays("state.safetensors", arrays, counters)
    again = trainer()
    kept = store.read_arrays("state.safetensors")
    assert kept is not None
    again.restore(*kept)
    assert part + [steady(step.values) for step in again.run()] == log
    assert again.counters == whole.counters
    mine, theirs = (dict(tree_flatten(t.model.trainable_parameters())) for t in (again, whole))
    assert all(mx.array_equal(mine[name], theirs[name]) for name in theirs)


def test_the_best_validation_is_kept_and_patience_stops(lm: LanguageModel) -> None:
    rows = rows_for(lm, 8)
    attach(lm)
    config = TrainConfig(
        batch_size=4, epochs=40, learning_rate=3e-2, warmup=0.0, eval_every=1, patience=3
    )
    flipped = [  # what is learned makes these ever worse
        TrainingRow(
            EncodedPair(r.encoded.id, r.encoded.prompt_ids, r.encoded.responses[::-1]),
            r.reference[::-1],
        )
        for r in rows[:4]
    ]
    trainer = Trainer(lm, rows[:4], config, seed=0, validation=flipped)
    values = [step.values for step in trainer.run()]
    assert trainer.counters.stopped == "validation"
    seen = [value["eval_loss"] for value in values]
    best = int(np.argmin(seen))
    assert trainer.counters.best_step == best + 1
    assert len(seen) == best + 1 + 3
    assert trainer.validate()["eval_loss"] == pytest.approx(seen[best], abs=1e-5)


@pytest.mark.parametrize(
    ("losses", "drifts", "stops"),
    [
        ([math.log(2)] + [1.0] * 12, range(13), True),
        ([math.log(2)] + [1.0] * 12, range(13, 0, -1), False),  # the KL falls: it recovers
        ([math.log(2)] + [0.8] * 12, range(13), False),  # within a quarter
        ([math.log(2)] + [0.6] * 11 + [3.0], range(13), False),  # one bad step
        ([3.0] + [3.2] * 12, range(13), False),  # another loss that begins higher
    ],
)
def test_a_loss_that_stays_above_its_beginning_stops_a_training(
    lm: LanguageModel, losses: list[float], drifts: Sequence[int], stops: bool
) -> None:
    attach(lm)
    trainer = Trainer(lm, rows_for(lm, 2), TrainConfig(batch_size=2, epochs=99), seed=0)
    for step, (loss, kl) in enumerate(zip(losses, drifts, strict=True), 1):
        trainer.counters.step = step
        trainer._judge({"loss": loss, "rewards/accuracies": 0.4, "kl": float(kl)})
    assert (trainer.counters.stopped == "divergence") == stops
    off = Trainer(lm, rows_for(lm, 2), TrainConfig(stop_diverged=False, epochs=99), seed=0)
    off.restore(*trainer.snapshot())
    off.counters.stopped = ""
    off._judge({"loss": 9.0, "rewards/accuracies": 0.4, "kl": 99.0})
    assert off.counters.stopped == ""


def test_a_step_says_how_closed_it_is(lm: LanguageModel) -> None:
    attach(lm)
    answers = [(5, 6), (7, 8), (9, 10)]

    def row(name: str, chosen: int, *rejected: int, block: str = "") -> TrainingRow:
        sides = tuple(answers[i] for i in (chosen, *rejected))
        encoded = EncodedPair(name, (4, 5, 4 + chosen), sides, f"u{chosen}", block)
        return TrainingRow(encoded, (-9.0,) * len(sides))

    def told(rows: list[TrainingRow], **options: Any) -> list[float]:
        config = TrainConfig(batch_size=len(rows), learning_rate=1e-5, **options)
        return [step.values["balance"] for step in train(lm, rows, config, seed=0)]

    cycle = [row("a", 0, 1), row("b", 1, 2), row("c", 2, 0)]
    assert told(cycle) == [1.0]
    assert told(cycle[:2]) == [1 / 3]  # only the second answer stands on both sides
    both = [row(f"{i}{j}", i, j) for i in range(3) for j in range(3) if i != j]
    assert told(both, loss="mipo") == [1.0]


@pytest.mark.parametrize(
    ("options", "why"),
    [({"stop_saturated": True}, "saturation"), ({"kl_budget": 3.0}, "KL budget")],
)
def test_training_stops_when_there_is_nothing_to_learn_or_too_much(
    lm: LanguageModel, options: dict[str, Any], why: str
) -> None:
    rows = rows_for(lm, 4)
    attach(lm)
    config = TrainConfig(
        batch_size=4,
        epochs=400,
        learning_rate=3e-2,
        warmup=0.0,
        schedule="constant",
        beta=1.0,
        **{"stop_saturated": False, "stop_diverged": False, **options},
    )
    trainer = Trainer(lm, rows, config, seed=0)
    values = [step.values for step in trainer.run()]
    assert trainer.counters.stopped == why
    assert 10 <= len(values) < 400
    last = values[-10:]
    if why == "saturation":
        assert np.mean([value["loss"] for value in last]) < 0.05
    else:
        assert np.mean([value["kl"] for value in last]) > 3.0


def test_the_rate_rises_and_falls_as_scheduled(lm: LanguageModel) -> None:
    rows = rows_for(lm, 1)
    attach(lm)
    config = TrainConfig(batch_size=1, epochs=10, learning_rate=1e-3, warmup=0.2, schedule="linear")
    rates = [step.values["learning_rate"] for step in train(lm, rows, config, seed=0)]
    wanted = [1e-3 / 3, 2e-3 / 3] + [1e-3 * (1 - n / 8) for n in range(8)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-3, atol=1e-9)


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


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_steps_of_ragged_lengths(lm: LanguageModel) -> None:
    rng = np.random.default_rng(5)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(4, 300, int(rng.integers(low, high))))

    rows = [
        TrainingRow(EncodedPair(f"p{i}", ids(3, 40), (ids(2, 20), ids(2, 20))), (-20.0, -20.0))
        for i in range(300)
    ]
    attach(lm)
    config = TrainConfig(batch_size=2, epochs=10, max_steps=1000, learning_rate=1e-5)
    held = []
    for _ in train(lm, rows, config, seed=0):
        held.append((mx.get_active_memory(), mx.get_cache_memory()))
    assert len(held) == 1000
    early, late = (np.array(held[start : start + 50]).max(axis=0) for start in (100, 950))
    assert late[0] <= 1.001 * early[0]  # what is alive
    assert late.sum() <= 1.05 * early.sum()  # with what the allocator keeps


def test_a_loss_of_ones_own_is_a_function_of_scores(lm: LanguageModel) -> None:
    """Half of the hinge, by a plain function: half of its gradient, and the same rewards."""
    rows = rows_for(lm, 3)
    batch = collate(rows)
    half = Custom(beta=0.2, function=lambda scores: 0.5 * Hinge(beta=0.2).loss(scores))
    logps = mx.array(np.linspace(-9, -4, batch.forest.responses.shape[0]).astype(np.float32))

    def summed(objective: Objective) -> tuple[Any, dict[str, mx.array]]:
        def of(logps: mx.array) -> mx.array:
            return losses(objective, Scores.of(batch, logps))[0].sum()

        return mx.grad(of)(logps), losses(objective, Scores.of(batch, logps))[1]

    (mine, told), (theirs, known) = summed(half), summed(Hinge(beta=0.2))
    np.testing.assert_allclose(np.array(mine), 0.5 * np.array(theirs), rtol=1e-6)
    assert np.abs(np.array(mine)).max() > 0
    assert told["rewards/margins"].tolist() == known["rewards/margins"].tolist()
