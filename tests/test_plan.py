"""How a step is cut: what is chosen when memory is short, and what is predicted of it."""

from __future__ import annotations

import random
from dataclasses import replace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from lm import archs
from lm.test_forest import with_lora
from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import Row, alone, plant, stems_of
from mipo_mlx.inference.prompt_cache import CAUSAL_PIECE
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.compile import padded
from mipo_mlx.training.gradients import loss_gradient
from mipo_mlx.training.memory_model import Dimensions, Geometry, Pass, step_bytes
from mipo_mlx.training.memory_plan import (
    AT_ONCE,
    LEAST_LOGITS,
    Plan,
    choose,
    micro_batches,
    steps_of,
)

OF = Dimensions(256, 6, 4, 2, 64, 768, 32_000)
CONFIG = TrainConfig(batch_size=8)


def rows(count: int, stem: int = 0, length: int = 40, answer: int = 20) -> list[TrainingRow]:
    rng = random.Random(0)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, archs.VOCAB) for _ in range(size))

    shared = ids(stem)
    return [
        TrainingRow(
            EncodedPair(
                str(i),
                shared + ids(length + i % 3),
                (ids(answer), ids(max(1, answer - 3))),
                "c" if stem else "",
            ),
            (0.0, 0.0),
        )
        for i in range(count)
    ]


def chosen(made: list[TrainingRow], limit: int, config: TrainConfig = CONFIG) -> Plan:
    return choose([made], config, OF, fixed=10**6, limit=limit)


def test_with_room_nothing_is_given_up() -> None:
    plan = chosen(rows(8), 10**12)
    assert plan.fits
    assert (plan.micro_batch, plan.recompute, plan.logits) == (8, False, 2**28)
    assert "8 pairs at once" in str(plan) and "may not fit" not in str(plan)


def test_prompts_of_their_own_are_taken_fewer_at_once_before_anything_is_made_twice() -> None:
    made = rows(8)
    whole = chosen(made, 10**12)
    plan = chosen(made, int(0.7 * whole.peak))
    assert plan.fits and not plan.recompute
    assert plan.micro_batch < 8 or plan.logits < whole.logits


def test_a_shared_context_is_taken_in_pieces_before_it_is_forwarded_for_each_pair() -> None:
    made = rows(8, stem=600)
    narrow = replace(OF, vocabulary=100)  # logits weigh nothing
    peaks = [choose([made], CONFIG, narrow, fixed=0, limit=10**12).peak]
    plan = choose([made], CONFIG, narrow, fixed=0, limit=int(0.7 * peaks[0]))
    assert plan.fits and plan.piece and not plan.recompute
    assert f"prompts by {plan.piece} tokens" in str(plan)


def test_where_nothing_fits_the_leanest_is_taken_and_said() -> None:
    plan = chosen(rows(8), 1)
    assert not plan.fits and "may not fit" in str(plan)
    assert plan.recompute and plan.micro_batch == 1
    least = replace(CONFIG, logits_memory=LEAST_LOGITS / 2**30, gradient_checkpointing=True)
    assert plan.peak <= chosen(rows(8), 1, least).peak


def test_what_the_options_say_is_kept() -> None:
    asked = replace(CONFIG, micro_batch_size=3, gradient_checkpointing=True)
    for limit in (1, 10**12):
        plan = chosen(rows(8), limit, asked)
        assert (plan.micro_batch, plan.recompute) == (3, True)


def test_the_steps_looked_at_hold_the_longest() -> None:
    made = [*rows(600), *rows(1, length=900)]
    steps = steps_of(made, 2, seed=0)
    assert len(steps) < 300
    assert any(len(row.encoded.prompt_ids) >= 900 for step in steps for row in step)


@pytest.mark.parametrize("stem", [0, 5, 300])
def test_geometry_is_that_of_the_forest(stem: int) -> None:
    made = [
        Row(row.encoded.prompt_ids, row.encoded.responses, row.encoded.group)
        for row in rows(5, stem)
    ]
    forest, shape = plant(made), Geometry.of(made)
    stems, branches, answers = forest.stems, forest.branches, forest.responses
    held = stems.shape[1] + branches.shape[1]
    last = shape.passes[-1]
    assert (last.rows, last.queries, last.keys) == (*answers.shape, held + answers.shape[1])
    assert shape.answers == forest.real.size
    pieces = shape.passes[: -1 - bool(branches.shape[1])]
    assert sum(one.tokens for one in pieces) == stems.size
    assert all(one.queries <= CAUSAL_PIECE for one in pieces)
    stems, owner = stems_of([row.prompt_ids for row in made], [row.group for row in made])
    after = Geometry.after(made, [len(stems[mine]) for mine in owner], compiled=True)
    assert (*pieces, *after.passes) == shape.passes
    single = Geometry.of(made, shares=False)
    assert single.passes[0].tokens == alone(made).responses.size
    assert single.answers == forest.real.size


def test_on_a_gpu_geometry_has_the_widths_of_the_compiled_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lm_head, "on_cpu", lambda: False)
    made = [
        Row(row.encoded.prompt_ids, row.encoded.responses, row.encoded.group)
        for row in rows(5, stem=70)
    ]
    forest, shape = padded(plant(made)), Geometry.of(made)
    stem, branch, answer = (
        array.shape[1] for array in (forest.stems, forest.branches, forest.responses)
    )
    assert [one.tokens for one in shape.passes] == [
        forest.stems.size,
        forest.branches.size,
        forest.responses.size,
    ]
    assert [one.keys for one in shape.passes] == [stem, stem + branch, stem + branch + answer]
    assert [one.causal for one in shape.passes] == [True, False, False]
    assert Geometry.of(made, shares=False).passes[0].tokens == padded(alone(made)).responses.size


def test_after_prompts_without_padding_attention_is_told_that_it_is_causal() -> None:
    one, other = (3,) * 9, (4,) * 8
    answers = ((5, 6), (7,))
    even = Geometry.after([Row(one, answers, "c"), Row(one, answers, "c")], [4, 4])
    assert [item.causal for item in even.passes] == [True, True]
    ragged = Geometry.after([Row(one, answers, "c"), Row(other, answers, "c")], [4, 4])
    assert [item.causal for item in ragged.passes] == [True, False]
    apart = Geometry.after([Row(one, answers, "c"), Row(other, answers, "c")], [4, 3])
    assert not any(item.causal for item in apart.passes)


def test_fused_attention_keeps_no_scores_where_it_is_told_to_be_causal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = replace(OF, head_dim=64)

    def taken(stem: int, causal: bool, of: Dimensions = wide) -> int:
        passes = (Pass(1, stem, stem, causal), Pass(2, 8, stem + 8))
        return step_bytes(Geometry(passes, 16), of, budget=0, recompute=False)

    on_cpu = taken(4000, True)
    assert on_cpu == taken(4000, False)  # a CPU makes every score
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert taken(4000, False) == on_cpu
    shorter, longer = taken(4000, True), taken(8000, True)
    assert longer < 2.01 * shorter  # grows with the length, not with its square
    assert on_cpu - shorter > wide.layers * wide.heads * 4000**2 * wide.itemsize
    narrow = replace(wide, head_dim=32)  # no kernel for so narrow heads
    assert taken(4000, True, narrow) == taken(4000, False, narrow)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_prediction_is_near_what_mlx_counts(recompute: bool) -> None:
    model = with_lora("llama").train()
    config = archs.arguments("llama")
    made = rows(8, stem=200)
    known = [Row(r.encoded.prompt_ids, r.encoded.responses, r.encoded.group) for r in made]
    forest = plant(known)
    mx.eval(forest.arrays)
    weights = sum(a.nbytes for a in dict(tree_flatten(model.parameters())).values())
    before = mx.get_active_memory()
    peaks = []
    for _ in range(2):
        mx.reset_peak_memory()
        found = loss_gradient(
            model,
            forest,
            lambda logps: (logps.sum(), {"logps": logps}),
            budget=2**24,
            recompute=recompute,
        )
        mx.eval(found)
        peaks.append(mx.get_peak_memory() - before)
    guess = step_bytes(Geometry.of(known), Dimensions.of(config), budget=2**24, recompute=recompute)
    assert weights < max(peaks)
    assert 0.6 < guess / max(peaks) < 1.67  # a model of width 32; benchmarks/memory.py is the proof


def test_micro_batches_hold_every_row_once() -> None:
    made = rows(9, stem=50)
    for most in (0, 1, 4):
        parts = micro_batches(made, most, AT_ONCE)
        assert sorted(index for part in parts for index in part) == list(range(9))
        assert all(len(part) <= (most or 9) for part in parts)
