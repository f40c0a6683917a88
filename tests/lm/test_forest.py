"""Shared contexts and prompts against single rows through the stock model, on all models."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from mipo_mlx.inference import lm_head
from mipo_mlx.inference.kv_cache import GrowingCache, left_aligned
from mipo_mlx.inference.layer_caches import compact, fork, join, settle
from mipo_mlx.inference.prefix_tree import (
    Row,
    common_length,
    forwarded,
    plant,
    sequence_logprobs,
    stems_of,
    token_logprobs,
)
from mipo_mlx.inference.prompt_cache import hold_in_chunks

from . import archs


def plain_logprobs(model: Any, prompt: list[int], response: list[int]) -> mx.array:
    """Reference: one row, no cache, no padding; summed log-probs of the response, nats."""
    tokens = mx.array([prompt + response])
    logits = model(tokens[:, :-1]).astype(mx.float32)[0, len(prompt) - 1 :]
    logps = nn.log_softmax(logits, axis=-1)
    return mx.take_along_axis(logps, mx.array(response)[:, None], axis=-1).sum()


def ragged(repeats: int, shared: bool = True, seed: int = 3) -> list[Row]:
    """Prompts with ``repeats`` responses of 1 to 9 tokens; with ``shared``, in two groups and none.

    One group's prompts differ in their last token alone, one prompt has a single token.
    """
    rng = np.random.default_rng(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, archs.VOCAB, count))

    long, short = ids(13), ids(4)
    prompts = [
        ("long", long + ids(5)),
        ("", ids(11)),
        ("short", (*short, 7)),
        ("long", long + ids(2)),
        ("", ids(1)),
        ("short", (*short, 9)),
        ("long", long + ids(9)),
    ]
    return [
        Row(ids_, tuple(ids(int(n)) for n in rng.integers(1, 10, repeats)), group if shared else "")
        for group, ids_ in prompts
    ]


def level(repeats: int, seed: int = 4) -> list[Row]:
    """Prompts of equal lengths, in two groups of equal shared starts; nothing needs padding."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, archs.VOCAB, count))

    made = []
    for group in ("a", "b"):
        start = (*ids(10), 5 + len(made))
        for first in (7, 8):
            answers = tuple(ids(int(n)) for n in rng.integers(1, 10, repeats))
            made.append(Row((*start, first, *ids(4)), answers, group))
    return made


def with_lora(name: str = "", model: Any = None) -> Any:
    """A random model with an adapter that matters: by name, or the one given."""
    model = model or archs.build(name)
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": 4, "scale": 2.0, "dropout": 0.0})
    archs.randomize_lora(model)
    return model


def relative(found: Any, wanted: Any) -> float:
    """Global L2 distance of two gradient trees over the norm of the second."""
    mine, theirs = dict(tree_flatten(found)), dict(tree_flatten(wanted))
    assert set(mine) == set(theirs)
    gap = sum(float(((mine[key] - theirs[key]) ** 2).sum()) for key in theirs)
    norm = sum(float((theirs[key] ** 2).sum()) for key in theirs)
    assert norm > 0
    return float((gap / norm) ** 0.5)


def plain(model: Any, rows: list[Row]) -> mx.array:
    """Every response of every row through the stock model, one at a time [r]."""
    return mx.stack(
        [
            plain_logprobs(model, list(row.prompt_ids), list(side))
            for row in rows
            for side in row.responses
        ]
    )


SMALL = 4 * lm_head.EAGER_COPIES * archs.VOCAB * 7  # logits of seven tokens
HOW: dict[str, dict[str, Any]] = {
    "whole": {"budget": 0},
    "chunks": {"budget": SMALL},
    "chunks, recomputed": {"budget": SMALL, "recompute": True},
}


@pytest.mark.parametrize("how", sorted(HOW))
@pytest.mark.parametrize("shared", [False, True, "level"])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("name", sorted(archs.ARCHS))
def test_logprobs_and_lora_gradients_equal_one_row_at_a_time(
    name: str, repeats: int, shared: bool | str, how: str
) -> None:
    model = with_lora(name).train()
    rows = level(repeats) if shared == "level" else ragged(repeats, bool(shared))
    forest = plant(rows)
    weight = mx.random.normal((len(rows) * repeats,), key=mx.random.key(5))

    def ours(model: Any) -> tuple[mx.array, mx.array]:
        logps = sequence_logprobs(model, forest, **HOW[how])
        return (weight * logps).sum(), logps

    def theirs(model: Any) -> tuple[mx.array, mx.array]:
        logps = plain(model, rows)
        return (weight * logps).sum(), logps

    (_, found), grad = nn.value_and_grad(model, ours)(model)
    (_, wanted), reference = nn.value_and_grad(model, theirs)(model)
    assert found.dtype == mx.float32
    assert float(mx.abs(found - wanted).max()) < 1e-4
    assert relative(grad, reference) < 1e-5
    assert all(bool(mx.isfinite(array).all()) for _, array in tree_flatten(grad))


def test_rows_without_padding_ask_for_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a window is narrower than the columns, or lengths differ, is a mask an array."""
    asked: list[str] = []
    whole = GrowingCache.make_mask

    def spied(self: GrowingCache, new: int, *args: Any, **kwargs: Any) -> Any:
        mask = whole(self, new, *args, **kwargs)
        asked.append(mask if isinstance(mask, str) else "array")
        return mask

    monkeypatch.setattr(GrowingCache, "make_mask", spied)
    mx.eval(sequence_logprobs(archs.build("llama"), plant(level(2))))
    assert asked == ["causal"] * 3  # stems, branches, responses
    asked.clear()
    mx.eval(sequence_logprobs(archs.build("llama"), plant(ragged(2))))
    assert asked == ["causal", "array", "array"]
    asked.clear()
    mx.eval(sequence_logprobs(archs.build("mistral"), plant(level(2))))
    assert sorted(asked) == ["array"] * 3 + ["causal"] * 3  # a window of 6 in one layer of two
    asked.clear()
    one_length = [Row(row.prompt_ids[:11] + row.prompt_ids[-1:], row.responses) for row in level(2)]
    uneven = [*one_length[:2], Row(one_length[2].prompt_ids[1:], one_length[2].responses)]
    for rows in (one_length, uneven):
        mx.eval(sequence_logprobs(archs.build("llama"), plant(rows)))
    assert asked == ["causal", "causal", "causal", "array"]


@pytest.mark.parametrize("name", sorted(archs.ARCHS))
def test_company_changes_nothing(name: str) -> None:
    """A row alone and a row among longer ones, padded on every side, score the same."""
    model = archs.build(name)
    rows = ragged(2)
    wanted = np.array(sequence_logprobs(model, plant(rows)))
    alone = [np.array(sequence_logprobs(model, plant([row]))) for row in rows]
    np.testing.assert_allclose(np.concatenate(alone), wanted, atol=1e-4)


def test_stems_forwarded_before_serve_any_part_of_their_rows() -> None:
    model = archs.build("llama")
    rows = ragged(2)
    wanted = np.array(sequence_logprobs(model, plant(rows))).reshape(len(rows), 2)
    stems, owner = stems_of([row.prompt_ids for row in rows], [row.group for row in rows])
    for limit in (1000, 10):  # in one piece, and in chunks of two columns
        held = hold_in_chunks(model, stems, limit)
        for part in ([0, 3], [5, 1, 6], [4]):
            forest = plant([rows[i] for i in part], stems, [owner[i] for i in part])
            found = np.array(sequence_logprobs(model, forest, held)).reshape(-1, 2)
            np.testing.assert_allclose(found, wanted[part], atol=1e-4)


def test_stems_are_what_a_group_shares_and_every_token_is_counted_once() -> None:
    rows = ragged(2)
    stems, owner = stems_of([row.prompt_ids for row in rows], [row.group for row in rows])
    assert owner == [0, 1, 2, 0, 3, 2, 0]
    assert [len(ids) for ids in stems] == [13, 10, 4, 0]
    answers = sum(len(ids) for row in rows for ids in row.responses)
    # Stems, then what prompts have beyond them without each one's last token, which is forwarded
    # with its responses as their first input.
    assert forwarded(rows) == (13 + 10 + 4) + (4 + 0 + 1 + 8) + answers
    assert common_length([(1, 2, 3), (1, 2, 3)]) == 2
    assert common_length([(1, 2, 3), (4,)]) == 0


def test_token_logprobs_are_zero_at_padding_and_sum_to_the_whole() -> None:
    model = archs.build("llama")
    forest = plant(ragged(2))
    tokens = token_logprobs(model, forest)
    assert float(mx.abs(mx.where(forest.mask, 0.0, tokens)).max()) == 0.0
    assert float(mx.where(forest.mask, tokens, -1.0).max()) < 0.0
    np.testing.assert_allclose(
        np.array(tokens.sum(-1)), np.array(sequence_logprobs(model, forest)), rtol=1e-6
    )


def test_half_precision_models_still_give_fp32() -> None:
    model = archs.build("llama")
    model.set_dtype(mx.bfloat16)
    assert sequence_logprobs(model, plant(ragged(2))).dtype == mx.float32


def test_layouts_against_positions_written_out() -> None:
    lengths, columns, past, new, window = [2, 0, 4], 4, 1, 3, 3
    layout = left_aligned(columns, mx.array(lengths))
    found = np.array(layout.mask(columns + past, new, window))
    assert found.shape == (3, 1, new, columns + past + new)
    for row, length in enumerate(lengths):
        places = [c if c < length else None for c in range(columns)]
        places += [length + c for c in range(past + new)]
        for query in range(new):
            at = length + past + query
            wanted = [p is not None and at - window < p <= at for p in places]
            assert found[row, 0, query].tolist() == wanted
    assert found.any(axis=-1).all()
    settled = layout.settle(columns + 2, mx.array([2, 1, 0]))
    hidden = 2**30
    assert settled.position.tolist() == [
        [0, 1, hidden, hidden, 2, 3],
        [hidden, hidden, hidden, hidden, 0, hidden],
        [0, 1, 2, 3, hidden, hidden],
    ]
    assert settled.base.tolist() == [4, 1, 4]


@pytest.mark.parametrize("reserve", [0, 4])
def test_caches_move_their_offset_and_return_all_columns(reserve: int) -> None:
    cache = GrowingCache(reserve=reserve)
    first = mx.random.normal((2, 1, 5, 3))
    assert cache.offset == 0
    cache.update_and_fetch(first, first)
    assert cache.offset == 5
    (twin,) = fork([cache], mx.array([0, 0, 1, 1]), mx.array([5, 3]))
    assert mx.array(twin.offset).tolist() == [5, 5, 3, 3]
    parts = [mx.repeat(first, 2, axis=0)]
    for _ in range(6):
        parts.append(mx.random.normal((4, 1, 1, 3)))
        keys, values = twin.update_and_fetch(parts[-1], -parts[-1])
    assert mx.array_equal(keys, mx.concatenate(parts, axis=2))
    assert mx.array_equal(values[:, :, 5:], -mx.concatenate(parts[1:], axis=2))
    assert mx.array(twin.offset).tolist() == [11, 11, 9, 9]
    assert cache.offset == 5
    (last,) = fork([twin], mx.array([3]))
    assert mx.array(last.offset).tolist() == [9]
    assert last.state[0].shape[0] == 1


def test_compacted_and_joined_rows_hold_their_real_columns_in_order() -> None:
    def rows(lengths: list[int], real: list[int], tag: float) -> list[GrowingCache]:
        cache = GrowingCache()
        width = max(lengths)
        start = mx.broadcast_to(mx.arange(width)[None, None, :, None], (len(real), 1, width, 1))
        cache.update_and_fetch(start + tag, start + tag)
        made = fork([cache], None, mx.array(lengths))
        more = mx.broadcast_to(mx.arange(3)[None, None, :, None] + 10.0, (len(real), 1, 3, 1))
        made[0].update_and_fetch(more + tag, more + tag)
        settle(made, mx.array(real))
        return made

    one, other = rows([4, 2], [1, 3], 0.0), rows([1], [2], 0.5)
    (small,) = compact(one)
    assert small.keys is not None
    assert small.held == 5
    assert small.keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 10]
    assert small.keys[1, 0, :, 0].tolist() == [0, 1, 10, 11, 12]
    (both,) = join(one, other)
    assert both.keys is not None
    assert mx.array(both.offset).tolist() == [5, 5, 3]
    assert both.keys[2, 0, :3, 0].tolist() == [0.5, 10.5, 11.5]
    assert both.layout is not None
    assert both.layout.position[2].tolist() == [0, 1, 2, 2**30, 2**30]


def test_prompt_masks_say_what_stock_caches_say() -> None:
    from mlx_lm.models.cache import KVCache, RotatingKVCache

    for new in (1, 4, 9):
        stock = KVCache().make_mask(new, return_array=False, window_size=None)
        assert GrowingCache().make_mask(new) == stock  # None for one token, else "causal"
        mine = GrowingCache().make_mask(new, return_array=True, window_size=6)
        stock = RotatingKVCache(max_size=6).make_mask(new, return_array=True, window_size=6)
        if stock is not None:
            assert mx.array_equal(mine, stock)
        mine = GrowingCache().make_mask(new, return_array=True)
        stock = KVCache().make_mask(new, return_array=True, window_size=None)
        if stock is not None:
            assert mx.array_equal(mine, stock)
