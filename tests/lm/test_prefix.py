"""Shared prompts against one row at a time through the stock model, for every architecture."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from mipo_mlx.errors import ModelError
from mipo_mlx.lm.prefix import (
    GrowingCache,
    branch_mask,
    left_align,
    new_caches,
    shared_logprobs,
    shared_token_logprobs,
)

from . import archs


def plain_logprobs(model: Any, prompt: list[int], response: list[int]) -> mx.array:
    """Reference: one row, no cache, no padding; summed log-probs of the response, nats."""
    tokens = mx.array([prompt + response])
    logits = model(tokens[:, :-1]).astype(mx.float32)[0, len(prompt) - 1 :]
    logps = nn.log_softmax(logits, axis=-1)
    return mx.take_along_axis(logps, mx.array(response)[:, None], axis=-1).sum()


def ragged(repeats: int, prompts: tuple[int, ...] = (11, 3, 1, 17)) -> tuple[Any, Any]:
    """Random prompts of these lengths, with ``repeats`` responses of 1 to 9 tokens each."""
    rng = np.random.default_rng(3)
    rows = [[int(t) for t in rng.integers(3, archs.VOCAB, n)] for n in prompts]
    lengths = rng.integers(1, 10, (len(prompts), repeats))
    sides = [
        [[int(t) for t in rng.integers(3, archs.VOCAB, n)] for n in counts] for counts in lengths
    ]
    return rows, sides


def arrays(prompts: Any, responses: Any, extra: int = 0, pad: int = 0) -> tuple[mx.array, ...]:
    """Padded arrays of a batch, with ``extra`` columns of padding on both kinds."""
    left = max(map(len, prompts)) + extra
    right = max(len(side) for sides in responses for side in sides) + extra
    tokens = np.full((len(prompts), left), pad)
    targets = np.full((len(prompts), len(responses[0]), right), pad)
    mask = np.zeros(targets.shape, dtype=bool)
    for i, ids in enumerate(prompts):
        tokens[i, left - len(ids) :] = ids
        for j, side in enumerate(responses[i]):
            targets[i, j, : len(side)] = side
            mask[i, j, : len(side)] = True
    lengths = mx.array([len(ids) for ids in prompts])
    return mx.array(tokens), lengths, mx.array(targets), mx.array(mask)


def with_lora(name: str) -> Any:
    model = archs.build(name)
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


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("name", sorted(archs.ARCHS))
def test_logprobs_and_lora_gradients_equal_one_row_at_a_time(name: str, repeats: int) -> None:
    model = with_lora(name)
    prompts, responses = ragged(repeats)
    batch = arrays(prompts, responses)
    weight = mx.random.normal((len(prompts), repeats), key=mx.random.key(5))

    def shared(model: Any) -> tuple[mx.array, mx.array]:
        logps = shared_logprobs(model, *batch)
        return (weight * logps).sum(), logps

    def plain(model: Any) -> tuple[mx.array, mx.array]:
        logps = mx.stack(
            [
                mx.stack([plain_logprobs(model, prompt, side) for side in sides])
                for prompt, sides in zip(prompts, responses, strict=True)
            ]
        )
        return (weight * logps).sum(), logps

    (_, found), grad = nn.value_and_grad(model, shared)(model)
    (_, wanted), reference = nn.value_and_grad(model, plain)(model)
    assert found.dtype == mx.float32
    assert float(mx.abs(found - wanted).max()) < 1e-4
    assert relative(grad, reference) < 1e-5
    assert all(bool(mx.isfinite(array).all()) for _, array in tree_flatten(grad))


@pytest.mark.parametrize("name", sorted(archs.ARCHS))
def test_padding_and_batching_change_nothing(name: str) -> None:
    model = archs.build(name)
    prompts, responses = ragged(2)
    wanted = shared_logprobs(model, *arrays(prompts, responses))
    more = shared_logprobs(model, *arrays(prompts, responses, extra=7, pad=5))
    alone = mx.concatenate(
        [
            shared_logprobs(model, *arrays([prompt], [sides]))
            for prompt, sides in zip(prompts, responses, strict=True)
        ]
    )
    assert float(mx.abs(more - wanted).max()) < 1e-4
    assert float(mx.abs(alone - wanted).max()) < 1e-4


def test_token_logprobs_are_zero_at_padding_and_sum_to_the_whole() -> None:
    model = archs.build("llama")
    batch = arrays(*ragged(2))
    tokens = shared_token_logprobs(model, *batch)
    assert float(mx.abs(mx.where(batch[3], 0.0, tokens)).max()) == 0.0
    assert float(mx.where(batch[3], tokens, -1.0).max()) < 0.0
    np.testing.assert_allclose(
        np.array(tokens.sum(-1)), np.array(shared_logprobs(model, *batch)), rtol=1e-6
    )


def test_only_prompts_of_one_token() -> None:
    model = archs.build("qwen2")
    prompts, responses = ragged(2, prompts=(1, 1))
    found = shared_logprobs(model, *arrays(prompts, responses))
    for i, prompt in enumerate(prompts):
        for j, side in enumerate(responses[i]):
            wanted = plain_logprobs(model, prompt, side)
            assert found[i, j].item() == pytest.approx(wanted.item(), abs=1e-4)


def test_half_precision_models_still_give_fp32() -> None:
    model = archs.build("llama")
    model.set_dtype(mx.bfloat16)
    assert shared_logprobs(model, *arrays(*ragged(2))).dtype == mx.float32


def test_branch_mask_against_positions_written_out() -> None:
    lengths, shared, past, new, window = [2, 0, 4], 4, 1, 3, 3
    found = np.array(branch_mask(mx.array(lengths), shared, past, new, window))
    assert found.shape == (3, 1, new, shared + past + new)
    for row, length in enumerate(lengths):
        places = [c if c < length else None for c in range(shared)]
        places += [length + c for c in range(past + new)]
        for query in range(new):
            at = length + past + query
            wanted = [p is not None and at - window < p <= at for p in places]
            assert found[row, 0, query].tolist() == wanted
    assert found.any(axis=-1).all()


def test_left_align_moves_padding_to_the_right() -> None:
    found = left_align(mx.array([[0, 0, 7, 8], [5, 6, 7, 8], [0, 0, 0, 0]]), mx.array([2, 4, 0]))
    assert found[0, :2].tolist() == [7, 8]
    assert found[1].tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize("reserve", [0, 4])
def test_cache_moves_its_offset_and_returns_all_columns(reserve: int) -> None:
    cache = GrowingCache(reserve=reserve)
    first = mx.random.normal((2, 1, 5, 3))
    assert cache.offset == 0
    cache.update_and_fetch(first, first)
    assert cache.offset == 5
    twin = cache.fork(mx.array([5, 3]), repeats=2)
    assert mx.array(twin.offset).tolist() == [5, 5, 3, 3]
    parts = [mx.repeat(first, 2, axis=0)]
    for _ in range(6):
        parts.append(mx.random.normal((4, 1, 1, 3)))
        keys, values = twin.update_and_fetch(parts[-1], -parts[-1])
    assert mx.array_equal(keys, mx.concatenate(parts, axis=2))
    assert mx.array_equal(values[:, :, 5:], -mx.concatenate(parts[1:], axis=2))
    assert mx.array(twin.offset).tolist() == [11, 11, 9, 9]
    assert cache.offset == 5
    twin.keep(mx.array([3]))
    assert mx.array(twin.offset).tolist() == [9]
    assert twin.state[0].shape[0] == 1


def test_prompt_masks_say_what_stock_caches_say() -> None:
    from mlx_lm.models.cache import KVCache, RotatingKVCache

    for new in (1, 4, 9):
        assert GrowingCache().make_mask(new) == "causal"
        mine = GrowingCache().make_mask(new, return_array=True, window_size=6)
        stock = RotatingKVCache(max_size=6).make_mask(new, return_array=True, window_size=6)
        if stock is not None:
            assert mx.array_equal(mine, stock)
        mine = GrowingCache().make_mask(new, return_array=True)
        stock = KVCache().make_mask(new, return_array=True, window_size=None)
        if stock is not None:
            assert mx.array_equal(mine, stock)


def test_recurrent_layers_are_refused() -> None:
    from mlx_lm.models.cache import ArraysCache

    class Recurrent:
        model_type = "recurrent"

        def make_cache(self) -> list[Any]:
            return [ArraysCache(2)]

    with pytest.raises(ModelError, match=r"ArraysCache.*recurrent"):
        new_caches(Recurrent())
