"""Sampling: the text of an answer is a matter of seed and job alone; greedy is stock greedy."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx.inference import prefill
from mipo_mlx.inference import sampling as module
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.prefix_tree import head_of, stems_of
from mipo_mlx.inference.sampling import Job, Sampling, at_least, choose, job_key, nucleus, respond
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import Response

from . import archs


def jobs(count: int = 24) -> list[Job]:
    rng = np.random.default_rng(1)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, 250, rng.integers(low, high)))

    heads = [ids(5, 30), ids(2, 9)]
    made = []
    for index in range(count):
        group = ("a", "b", "")[index % 3]
        prompt = (heads[index % 3] if group else ()) + ids(1, 20)
        made.append(Job(f"job{index}", prompt, group))
    return made


def answers(lm: LanguageModel, wanted: list[Job], sampling: Sampling) -> dict[str, Response]:
    return dict(respond(lm, wanted, sampling))


def stopping(lm: LanguageModel, bonus: float = 4.0) -> LanguageModel:
    """Make the end of turn likely, so that answers end at different lengths."""
    plain = type(lm.model).__call__
    bias = mx.zeros((archs.VOCAB,))
    bias[2] = bonus

    class Stopping(type(lm.model)):  # type: ignore[misc]
        def __call__(self, inputs: mx.array, cache: object = None) -> mx.array:
            return plain(self, inputs, cache=cache) + bias

    lm.model.__class__ = Stopping
    return lm


def test_a_head_of_all_users_is_forwarded_once(lm: LanguageModel) -> None:
    rng = random.Random(5)
    first = tuple(rng.randrange(10, 90) for _ in range(30))
    wanted = []
    for user in range(9):  # the last has nothing in common with the others
        mine = tuple(rng.randrange(10, 90) for _ in range(3 + user))
        for prompt in range(3):
            ids = (first if user < 8 else ()) + mine + (5, 20 + prompt, 7)
            wanted.append(Job(f"{user}/{prompt}", ids, str(user)))
    whole = answers(lm, [replace(job, group="") for job in wanted], Sampling(max_tokens=8, seed=2))
    for size in (1, 4, 0):
        tally = Tally()
        found = dict(respond(lm, wanted, Sampling(max_tokens=8, seed=2, batch_size=size), tally))
        assert found == whole
        assert tally.ideal <= tally.forwarded <= 1.05 * tally.ideal
        assert tally.forwarded < 30 + sum(3 + user + 1 + 3 * 2 for user in range(9)) + 1


def test_the_head_is_what_saves_most() -> None:
    short, long = (1, 2), (1, 2, 3, 4, 5, 6)
    stems = [(*short, 9), (*short, 8), (*long, 1), (*long, 2), (*long, 3)]
    assert head_of(stems) == long  # saves 12, the short one 8
    assert head_of([*stems, *((*short, n) for n in range(20, 30))]) == short
    assert head_of([(1,) * 500 + (n,) for n in (1, 2)]) == (1,) * 500
    assert head_of([(7, *(n,) * 99) for n in (1, 2)]) == ()  # a token of 200 is worth nothing
    assert head_of([]) == head_of([(1, 2, 3)]) == head_of([(), ()]) == ()


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text", "ministral3"])
def test_text_depends_on_neither_batch_size_nor_order(name: str, tmp_path: Path) -> None:
    lm = stopping(archs.opened(tmp_path / name, name))
    wanted = jobs()
    base = Sampling(max_tokens=12, seed=7)
    found = answers(lm, wanted, base)
    assert set(found) == {job.key for job in wanted}
    for size, order in ((1, wanted), (3, wanted[::-1]), (7, wanted[3:] + wanted[:3]), (16, wanted)):
        again = answers(lm, order, Sampling(max_tokens=12, seed=7, batch_size=size))
        assert again == found
    subset = answers(lm, wanted[5:8], base)
    assert all(found[key] == value for key, value in subset.items())
    other = answers(lm, wanted, Sampling(max_tokens=12, seed=8))
    assert sum(other[key].token_ids == found[key].token_ids for key in found) < len(found) / 2


def test_end_of_turn_is_kept_and_a_cut_is_flagged(lm: LanguageModel) -> None:
    found = answers(stopping(lm), jobs(40), Sampling(max_tokens=6, seed=0))
    reasons = {response.finish_reason for response in found.values()}
    assert reasons == {"stop", "length"}
    for response in found.values():
        if response.finish_reason == "stop":
            assert response.token_ids[-1] == 2
            assert 2 not in response.token_ids[:-1]
        else:
            assert len(response.token_ids) == 6
            assert 2 not in response.token_ids
        assert response.text == chat_template.decode(lm.tokenizer, response.token_ids)
        assert "<|im_end|>" not in response.text


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text", "smollm3", "phi3"])
def test_greedy_equals_stock_greedy(name: str, tmp_path: Path) -> None:
    from mlx_lm.generate import generate_step

    lm = archs.opened(tmp_path / name, name)
    wanted = jobs(5)
    found = answers(lm, wanted, Sampling(temperature=0.0, max_tokens=10, batch_size=3))
    for job in wanted:
        stock = []
        steps = generate_step(mx.array(job.prompt_ids), lm.model, max_tokens=10)
        for token, _ in steps:
            stock.append(int(token))
            if stock[-1] == 2:
                break
        assert list(found[job.key].token_ids) == stock


def test_long_stems_are_forwarded_in_chunks_and_each_once(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = jobs(30)
    base = Sampling(max_tokens=6, seed=3, batch_size=4)
    whole = answers(lm, wanted, base)
    monkeypatch.setattr(prefill, "PREFILL_TOKENS", 12)
    assert answers(lm, wanted, base) == whole
    seen: list[tuple[int, ...]] = []
    real = prefill.hold_in_chunks

    def spy(model: object, stems: list[tuple[int, ...]], limit: int) -> object:
        seen.extend(stems)
        return real(model, stems, limit)

    monkeypatch.setattr(prefill, "hold_in_chunks", spy)
    assert answers(lm, wanted, base) == whole
    stems, _ = stems_of([job.prompt_ids for job in wanted], [job.group for job in wanted])
    assert sorted(seen) == sorted(stems)


def test_rows_side_by_side_follow_the_memory_limit(lm: LanguageModel) -> None:
    def rows(limit: int) -> int:
        sampler = module._Sampler(lm, jobs(), Sampling(max_tokens=20, memory_limit=limit), Tally())
        return sampler._rows_that_fit()

    assert rows(0) == module.most_rows()
    assert rows(1) == 1
    sizes = [rows(limit) for limit in (10**5, 10**6, 10**7)]
    assert sizes == sorted(sizes)
    assert 1 < sizes[1] < module.most_rows()
    columns = max(len(job.prompt_ids) for job in jobs()) + 20
    config = archs.arguments("llama")
    head = config["hidden_size"] // config["num_attention_heads"]
    column = 2 * 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    assert sizes[1] * columns * column <= 10**6


def with_twins(wanted: list[Job]) -> list[Job]:
    """Jobs with a prompt without context each: the last few tokens, some of them alike."""
    return [replace(job, without_ids=job.prompt_ids[-3:]) for job in wanted]


@pytest.mark.parametrize("a", [0.5, 2.0])
def test_context_aware_decoding_is_that_of_two_whole_forward_passes(
    lm: LanguageModel, a: float
) -> None:
    wanted = with_twins(jobs(6))
    found = answers(lm, wanted, Sampling(temperature=0.0, max_tokens=6, contrast=a))
    differ = 0
    for job in wanted:
        told: list[int] = []
        while len(told) < 6:
            rows = [
                np.array(lm.model(mx.array([[*ids, *told]]))[0, -1], np.float64)
                for ids in (job.prompt_ids, job.without_ids)
            ]
            logp = [row - np.log(np.exp(row - row.max()).sum()) - row.max() for row in rows]
            told.append(int(np.argmax((1 + a) * logp[0] - a * logp[1])))
            differ += told[-1] != int(np.argmax(logp[0]))
            if told[-1] == 2:
                break
        assert list(found[job.key].token_ids) == told
    assert differ > 3  # the context's weight matters


def test_context_aware_text_depends_on_neither_batch_size_nor_order(lm: LanguageModel) -> None:
    wanted = with_twins(jobs())
    sampling = Sampling(max_tokens=8, seed=3, contrast=1.0)
    stopping(lm)
    whole = answers(lm, wanted, sampling)
    for size in (1, 5, 7):
        assert answers(lm, wanted[::-1], replace(sampling, batch_size=size)) == whole
    assert answers(lm, wanted, replace(sampling, contrast=0.0)) != whole
    tally = Tally()
    dict(respond(lm, wanted, sampling, tally))
    same = Tally()
    dict(respond(lm, wanted, replace(sampling, contrast=0.0), same))
    twins = {job.without_ids for job in wanted}
    # each distinct prompt without context once but for its last token, which every row reads
    least = sum(len(ids) - 1 for ids in twins) + len(wanted)
    assert least - 3 < tally.forwarded - same.forwarded <= least  # a head of all saves a few


def test_rows_side_by_side_are_fewer_with_two_prompts_each(lm: LanguageModel) -> None:
    def rows(contrast: float) -> int:
        wanted = [replace(job, without_ids=job.prompt_ids) for job in jobs()]
        sampling = Sampling(max_tokens=20, memory_limit=10**6, contrast=contrast)
        return module._Sampler(lm, wanted, sampling, Tally())._rows_that_fit()

    assert rows(1.0) == rows(0.0) // 2 > 0


def test_draws_follow_the_softmax_at_a_temperature() -> None:
    logits = mx.array([2.0, 0.0, 1.0, -1.0])
    count, temperature = 20_000, 0.7
    keys = mx.array([job_key(3, str(i)) for i in range(count)], dtype=mx.uint32)
    tokens = choose(
        mx.broadcast_to(logits, (count, 4)),
        keys,
        mx.array(0, mx.uint32),
        Sampling(temperature=temperature),
    )
    found = np.bincount(np.array(tokens), minlength=4) / count
    wanted = np.exp(np.array(logits) / temperature)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=0.012)


def test_draws_at_two_token_indices_are_independent() -> None:
    count = 4_000
    keys = mx.array([job_key(3, str(i)) for i in range(count)], dtype=mx.uint32)
    flat = mx.zeros((count, 2))
    one, two = (
        np.array(choose(flat, keys, mx.array(index, mx.uint32), Sampling())) for index in (0, 1)
    )
    assert abs(np.mean(one == two) - 0.5) < 0.03


def test_nucleus_keeps_the_fewest_likeliest() -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.9, 0.03, 0.02]]))
    kept = np.array(nucleus(logprobs, 0.7)) > -np.inf
    assert kept.tolist() == [[True, True, False, False], [False, True, False, False]]


def test_nucleus_of_almost_nothing_is_greedy() -> None:
    logits = mx.random.normal((50, 9), key=mx.random.key(0))
    keys = mx.array([job_key(0, str(i)) for i in range(50)], dtype=mx.uint32)
    assert mx.array_equal(
        choose(logits, keys, mx.array(0, mx.uint32), Sampling(top_p=0.01)),
        mx.argmax(logits, axis=-1),
    )


@pytest.mark.parametrize("min_p", [0.02, 0.1, 0.7, 1.0])
def test_min_p_keeps_what_mlx_lm_keeps_after_the_nucleus(min_p: float) -> None:
    from mlx_lm.sample_utils import apply_min_p, apply_top_p

    logits = 3 * mx.random.normal((40, 30), key=mx.random.key(1))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for top_p in (1.0, 0.8):
        stock = apply_top_p(logprobs, top_p) if top_p < 1 else logprobs
        stock = apply_min_p(stock, min_p)
        ours = at_least(nucleus(logprobs, top_p) if top_p < 1 else logprobs, min_p)
        np.testing.assert_array_equal(np.isinf(np.array(ours)), np.isinf(np.array(stock)))
        assert (~np.isinf(np.array(ours))).any(axis=1).all()


def test_min_p_of_one_is_greedy_and_least_is_taken_before_temperature() -> None:
    logits = mx.random.normal((50, 9), key=mx.random.key(0))
    keys = mx.array([job_key(0, str(i)) for i in range(50)], dtype=mx.uint32)
    greedy = mx.argmax(logits, axis=-1)
    for temperature in (0.2, 1.0, 5.0):
        sampling = Sampling(temperature=temperature, min_p=1.0)
        assert mx.array_equal(choose(logits, keys, mx.array(0, mx.uint32), sampling), greedy)


@pytest.mark.parametrize(
    ("wanted", "sampling"),
    [
        ([Job("a", ())], Sampling()),
        ([Job("a", (1,))], Sampling(max_tokens=0)),
        ([Job("a", (1,))], Sampling(batch_size=-1)),
    ],
)
def test_empty_prompts_and_counts_are_refused(
    lm: LanguageModel, wanted: list[Job], sampling: Sampling
) -> None:
    with pytest.raises(ValueError, match="at least"):
        list(respond(lm, wanted, sampling))
