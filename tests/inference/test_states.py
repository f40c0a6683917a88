"""Layers that keep states: shared prompts against one row at a time through stock mlx-lm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache
from scipy.stats import chisquare

from lm import archs, zoo
from lm.test_forest import SMALL, plain, relative, with_lora
from mipo_mlx.errors import ModelError
from mipo_mlx.inference.layer_caches import (
    compact,
    fork,
    join,
    new_caches,
    with_keys,
    with_states,
)
from mipo_mlx.inference.prefix_tree import Row, plant, stems_of
from mipo_mlx.inference.prompt_cache import fill
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.inference.scoring import score
from mipo_mlx.inference.state_cache import StateCache
from mipo_mlx.models import architecture
from mipo_mlx.models.architecture import STOPPING, UNSHARED
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.gradients import forward_trunk, loss_gradient, trunk_gradient
from mipo_mlx.training.memory_model import Dimensions, Geometry, step_bytes

ASKED = ["falcon_h1", "lfm2", "mamba2", "qwen3_5", "qwen3_next"]
BESIDES = ["granitemoehybrid", "mamba", "nemotron_h", "rwkv7"]


def keeps_states(name: str) -> bool:
    def look(caches: Sequence[Any]) -> bool:
        return any(
            look(cache.caches) if isinstance(cache, CacheList) else isinstance(cache, ArraysCache)
            for cache in caches
        )

    model = zoo.build(name)
    found = look(make_prompt_cache(model))
    assert found == architecture.keeps_states(model)
    return name not in UNSHARED and found


KEEPING = [name for name in zoo.NAMES if keeps_states(name)]


def rows(repeats: int) -> list[Row]:
    """Three users' prompts and two of nobody, one of a single token: all lengths differ."""
    rng = np.random.default_rng(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, 320, count).tolist())

    made = []
    for user, (stem, rests) in enumerate([(9, (3, 1)), (14, (6, 2)), (11, (0, 4))]):
        start = ids(stem)
        for rest in rests:
            answers = tuple(ids(count) for count in (4 + rest, 7, 1)[:repeats])
            made.append(Row((*start, *ids(rest), 5), answers, str(user)))
    return [*made, *(Row(ids(count), tuple(map(ids, (2, 5, 3)[:repeats]))) for count in (1, 6))]


def contrast(logps: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    """A loss that is curved in every log-prob, and weighs them differently."""
    margin = logps[::2] - logps[1::2]
    scale = 1 + mx.arange(margin.size)
    return (scale * nn.softplus(-0.1 * margin)).sum(), {"margin": margin}


def by_rows(model: Any, mine: list[Row]) -> tuple[mx.array, Any]:
    """The same by the stock model, a full sequence for each response."""

    def loss(model: Any) -> tuple[mx.array, mx.array]:
        value, told = contrast(plain(model, mine))
        return value, told["margin"]

    (_, margin), grads = nn.value_and_grad(model, loss)(model)
    return margin, grads


def stock_states(caches: Sequence[Any]) -> Iterator[list[mx.array]]:
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from stock_states(cache.caches)
        elif isinstance(cache, ArraysCache):
            yield cache.cache


@pytest.mark.parametrize("name", KEEPING)
def test_a_state_is_that_of_a_rows_last_token(name: str) -> None:
    """Two passes over right-padded rows; some end before the second, some have a token in it."""
    model = zoo.build(name)
    lengths = [0, 1, 3, 5]
    first, second = (
        mx.random.randint(3, 320, (4, width), key=mx.random.key(width)) for width in (2, 5)
    )
    caches = new_caches(model)
    fill(model, first, caches, mx.full((4,), 2))
    fill(model, second, caches, mx.array(lengths))
    for row, length in enumerate(lengths):
        stock = make_prompt_cache(model)
        model(mx.concatenate([first[row, None], second[row, None, :length]], axis=1), cache=stock)
        wanted = list(stock_states(stock))
        assert len(wanted) == len(with_states(caches)) > 0
        for ours, theirs in zip(with_states(caches), wanted, strict=True):
            for mine, array in zip(ours.state, theirs, strict=True):
                np.testing.assert_allclose(np.array(mine[row]), np.array(array[0]), atol=2e-5)


def test_layers_that_do_not_stop_are_known() -> None:
    """Told where rows end, these go on all the same, so that padding would be part of the state."""
    for name in set(KEEPING) & {"nemotron_h", "rwkv7", "olmo_hybrid"}:
        model = zoo.build(name)
        stock = make_prompt_cache(model)
        for cache in stock:
            if isinstance(cache, ArraysCache):
                cache.lengths = mx.array([2])
        model(mx.array([[5, 6, 7, 8]]), cache=stock)
        exact = make_prompt_cache(model)
        model(mx.array([[5, 6]]), cache=exact)
        pairs = zip(stock_states(stock), stock_states(exact), strict=True)
        gaps = [
            float(mx.abs(a - b).max()) for one, two in pairs for a, b in zip(one, two, strict=True)
        ]
        assert max(gaps) > 0.01
        assert name not in STOPPING


@pytest.mark.parametrize(
    ("name", "repeats", "how"),
    [
        *product(ASKED, (1, 3), ("whole", "checkpointed", "in pieces, checkpointed")),
        *product(BESIDES, (3,), ("whole", "in pieces, checkpointed")),
    ],
)
def test_gradients_equal_full_rows_one_by_one(name: str, repeats: int, how: str) -> None:
    model = with_lora(model=zoo.build(name)).train()
    mine = rows(repeats)
    margin, wanted = by_rows(model, mine)
    recompute = "checkpointed" in how
    if "pieces" not in how:
        told, grads = loss_gradient(model, plant(mine), contrast, budget=SMALL, recompute=recompute)
    else:
        stems, owner = stems_of([row.prompt_ids for row in mine], [row.group for row in mine])
        trunk = forward_trunk(model, stems, 4 * len(stems))
        assert len(trunk.starts) > 2
        told, grads = loss_gradient(
            model,
            plant(mine, stems, owner),
            contrast,
            budget=SMALL,
            recompute=recompute,
            trunk=trunk,
        )
        grads = tree_map(mx.add, grads, trunk_gradient(model, trunk, recompute=recompute))
    np.testing.assert_allclose(np.array(told["margin"]), np.array(margin), atol=2e-4)
    assert relative(grads, wanted) < 2e-5


@pytest.mark.parametrize("name", ASKED + BESIDES)
def test_scores_and_greedy_answers_are_those_of_whole_forward_passes(
    name: str, lm: LanguageModel
) -> None:
    lm = replace(lm, model=zoo.build(name))
    mine = rows(3)
    wanted = np.array(plain(lm.model, mine))
    for most in (16_384, 24):
        found = [value for values in score(lm, mine, max_batch_tokens=most) for value in values]
        np.testing.assert_allclose(found, wanted, atol=2e-4)
    asked = [Job(str(number), row.prompt_ids, row.group) for number, row in enumerate(mine)]
    for size in (0, 3):
        sampling = Sampling(temperature=0, max_tokens=6, batch_size=size)
        for key, answer in respond(lm, asked, sampling):
            ids = list(asked[int(key)].prompt_ids)
            for token in answer.token_ids:
                assert int(mx.argmax(lm.model(mx.array([ids]))[0, -1])) == token
                ids.append(token)
            assert answer.finish_reason == "length" or answer.token_ids[-1] == 2


SYMBOLS, LONGEST = 6, 3


def small(name: str) -> Any:
    """A random model of a few symbols, whose answers can be counted out."""
    module = zoo.module_of(name)
    mx.random.seed(4)
    model = module.Model(module.ModelArgs.from_dict({**zoo.arguments(name), "vocab_size": SYMBOLS}))
    model.update(
        tree_map(lambda array: array + 0.3 * mx.random.normal(array.shape), model.parameters())
    )
    return model.eval()


def distribution(model: Any, prompt: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Probability of every answer of at most ``LONGEST`` tokens, 2 ending it, by plain passes."""
    made: dict[tuple[int, ...], float] = {}
    whole = list(product(range(SYMBOLS), repeat=LONGEST))
    tokens = mx.array([[*prompt, *answer[:-1]] for answer in whole])
    steps = mx.softmax(model(tokens)[:, len(prompt) - 1 :].astype(mx.float32), axis=-1)
    for answer, table in zip(whole, np.array(steps, dtype=np.float64), strict=True):
        length = answer.index(2) + 1 if 2 in answer else LONGEST
        made[answer[:length]] = float(np.prod([table[i, answer[i]] for i in range(length)]))
    assert abs(sum(made.values()) - 1) < 1e-5
    return made


def fit(counts: Counter[tuple[int, ...]], chances: dict[tuple[int, ...], float]) -> float:
    """p of Pearson's chi-square, answers expected fewer than five times taken together."""
    total = counts.total()
    often = [answer for answer, chance in chances.items() if chance * total >= 5]
    seen = [counts[answer] for answer in often]
    expected = [chances[answer] * total for answer in often]
    seen.append(total - sum(seen))
    expected.append(total - sum(expected))
    return float(chisquare(seen, np.array(expected) * (total / sum(expected))).pvalue)


@pytest.mark.parametrize("name", ["mamba2", "rwkv7"])
def test_sampled_answers_follow_their_exact_distribution(name: str, lm: LanguageModel) -> None:
    lm = replace(lm, model=small(name))
    contexts = [(3, 1, 4, 1, 5, 3), (5, 0, 3)]
    prompts = [(*context, *rest) for context in contexts for rest in ((1,), (4, 3))]
    asked = [
        Job(f"{number} {draw}", prompt, str(number // 2))
        for number, prompt in enumerate(prompts)
        for draw in range(400)
    ]
    counts: dict[int, Counter[tuple[int, ...]]] = {number: Counter() for number in range(4)}
    for key, answer in respond(lm, asked, Sampling(max_tokens=LONGEST, seed=5, batch_size=100)):
        counts[int(key.split()[0])][answer.token_ids] += 1
    lost = []  # what answers would fit if the state of the context were lost
    for number, prompt in enumerate(prompts):
        assert fit(counts[number], distribution(lm.model, prompt)) > 1e-3
        rest = prompt[len(contexts[number // 2]) :]
        lost.append(fit(counts[number], distribution(lm.model, rest)))
    assert sum(p < 1e-6 for p in lost) >= 2


@pytest.mark.parametrize("base", ["bf16", "4 bits"])
@pytest.mark.parametrize("name", ["qwen3_5", "falcon_h1"])
def test_half_precision_is_as_near_as_plain_half_precision(name: str, base: str) -> None:
    model, mine = zoo.build(name), rows(3)
    if base == "4 bits":
        nn.quantize(model, group_size=32, bits=4)
    exact = np.array(plain(model, mine))
    model.set_dtype(mx.bfloat16)
    lm = LanguageModel(model, None, archs.Path("."), "it", "", None)
    found = np.array([value for values in score(lm, mine) for value in values])
    ours, theirs = (
        np.sqrt(np.mean((x - exact) ** 2)) for x in (found, np.array(plain(model, mine)))
    )
    assert 0 < ours < 1.2 * theirs


def test_states_are_forked_and_joined_row_by_row() -> None:
    cache: Any = StateCache(2, stops=True)
    cache[0] = mx.arange(3)[:, None] * 1.0
    (one,) = fork([cache], mx.array([2, 0, 2]))
    (two,) = fork([one], mx.array([1, 0]))
    assert two[0][:, 0].tolist() == [0, 2] and two[1] is None
    assert two.state[0].shape[0] == 3  # nothing is copied before it is read
    (both,) = compact(join([two], [one]))
    assert both[0][:, 0].tolist() == [0, 2, 2, 0, 2]
    two[0] = two[0] + 10
    assert (one[0][:, 0].tolist(), two[0][:, 0].tolist()) == ([2, 0, 2], [10, 12])
    (none,) = fork([StateCache(2, stops=True)], None, mx.array([0, 0]))
    (both,) = join([none], [one])
    assert both[0][:, 0].tolist() == [0, 0, 2, 0, 2]


@pytest.mark.parametrize("name", ["deepseek_v32", "longcat_flash_ngram", "recurrent_gemma"])
def test_what_only_looks_like_a_state_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"not supported .*{name}"):
        new_caches(zoo.build(name))


def test_layers_with_keys_and_states_hold_both() -> None:
    model = zoo.build("falcon_h1")
    caches = new_caches(model)
    fill(model, mx.array([[5, 6, 7], [8, 9, 0]]), caches, mx.array([3, 2]))
    assert len(with_keys(caches)) == len(with_states(caches)) == len(model.layers)
    assert {cache.held for cache in with_keys(caches)} == {3}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["qwen3_next", "mamba", "rwkv7"])
def test_memory_is_predicted_with_the_state_of_every_token(name: str, recompute: bool) -> None:
    model = with_lora(model=zoo.build(name)).train()
    prompt = tuple(range(3, 99))
    mine = [Row(prompt, ((5, 6, 7, 8), (9, 10, 11, 12)))]
    forest = plant(mine)
    mx.eval(*forest)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(loss_gradient(model, forest, contrast, budget=2**24, recompute=recompute))
    peak = mx.get_peak_memory() - before
    of = Dimensions.of(zoo.arguments(name))
    found = step_bytes(Geometry.of(mine), of, budget=2**24, recompute=recompute)
    assert 0.6 < found / peak < 2.5  # an upper estimate: delta rules keep most
    assert (
        step_bytes(Geometry.of(mine), replace(of, recurrent=0), budget=2**24, recompute=recompute)
        < 0.6 * peak
    )
