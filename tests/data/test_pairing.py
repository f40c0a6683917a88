"""What is dropped, what is held out, and the order of training."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from mipo_mlx.data.batches import EncodedPair, batches, pad_right
from mipo_mlx.data.pairs import (
    drop_reason,
    filter_scored,
    length_summary,
    match_lengths,
    plain,
    pmi_summary,
)
from mipo_mlx.data.split import split
from mipo_mlx.types import PreferencePair, Response


@pytest.mark.parametrize(
    ("text", "reason", "wanted"),
    [
        ("yes", "stop", ""),
        ("yes", "length", ""),
        (" ", "stop", "empty"),
        ("I'm sorry, but I can't help with that.", "stop", "refusal"),
        ("As an AI, I have no feelings.", "stop", "refusal"),
        ("<think>hm", "stop", "thinking"),
        ("hm</think> Walk.", "stop", "thinking"),
        ("Sorry for the wait. Walk along the river.", "stop", ""),
        ("I can help with that: walk.", "stop", ""),
        ("I cannot recommend the river path enough!", "stop", ""),
        ("As an AIrline pilot you know the way.", "stop", ""),
    ],
)
def test_why_an_answer_is_of_no_use(text: str, reason: str, wanted: str) -> None:
    answer = Response(text, (1, 2), reason)
    assert drop_reason("q", answer) == wanted
    cut_off = "cut_off" if reason == "length" else wanted
    assert drop_reason("q", answer, drop_truncated=True) == cut_off


def test_answers_that_differ_in_case_space_and_punctuation_alone_are_alike() -> None:
    assert plain("Same, again!") == plain(" same  AGAIN")
    assert plain("Same, again!") != plain("same against")


def test_answers_in_another_language_are_dropped_when_asked_for() -> None:
    english = "You could cook a soup with beans and a little rice tonight."
    german = "Du könntest heute Abend eine Suppe mit Bohnen und etwas Reis kochen."
    question = "What should I cook for my friends tonight?"
    frage = "Was soll ich heute Abend für meine Freunde kochen?"
    for prompt, text, wanted in (
        (question, english, ""),
        (question, german, "language"),
        (frage, german, ""),
        (frage, english, "language"),
        (frage, "Reis.", ""),
        ("Hm?", german, ""),
    ):
        answer = Response(text, (1,), "stop")
        assert drop_reason(prompt, answer, same_language=True) == wanted
        assert drop_reason(prompt, answer) == ""


def sized(chosen: int, rejected: int, pmi: float = 0.0) -> PreferencePair:
    sides = (Response("a", (1,) * chosen, "stop"), Response("b", (1,) * rejected, "stop"))
    return PreferencePair(f"{chosen}-{rejected}", (), *sides, pmi=pmi)


def test_pairs_beyond_the_limits_are_dropped_and_counted() -> None:
    pairs = [sized(4, 4), sized(9, 4), sized(4, 8, -0.5), sized(4, 9), sized(5, 5, -2.0)]
    kept, dropped = filter_scored(pairs, min_pmi=-1.0, length_ratio=2.0)
    assert kept == [pairs[0], pairs[2]]
    assert dropped == {"length": 2, "pmi": 1}
    assert filter_scored(pairs, min_pmi=None, length_ratio=0.0)[0] == pairs


def test_matching_lengths_evens_the_totals_and_drops_few() -> None:
    rng = random.Random(0)
    pairs = [sized(rng.randint(8, 40), rng.randint(4, 30)) for _ in range(200)]
    before = length_summary(pairs)["ratio"]
    kept = match_lengths(pairs)
    assert before > 1.3
    assert length_summary(kept)["ratio"] == pytest.approx(1.0, abs=0.02)
    assert len(kept) > 0.6 * len(pairs)
    mirrored = [replace(p, chosen=p.rejected, rejected=p.chosen) for p in pairs]
    assert [p.id for p in match_lengths(mirrored)] == [p.id for p in kept]
    assert match_lengths([sized(3, 3)]) == [sized(3, 3)]


def test_pmi_quantiles_against_numpy() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, 101)
    found = pmi_summary([sized(1, 1, float(value)) for value in values])
    wanted = np.quantile(values, [0.1, 0.5, 0.9])
    np.testing.assert_allclose([found["p10"], found["p50"], found["p90"]], wanted, atol=1e-3)
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-3)
    assert found["context_used"] == pytest.approx(np.mean(values > np.log(2)), abs=1e-3)
    assert pmi_summary([replace(sized(1, 1), pmi=None)]) == {}


def test_a_split_depends_on_ids_and_seed_alone() -> None:
    items = {f"id{n}": n for n in range(50)}
    train, held = split(items, 0.2, 0)
    assert len(held) == 10
    assert sorted(train + held) == list(range(50))
    backwards = dict(reversed(items.items()))
    assert sorted(split(backwards, 0.2, 0)[1]) == sorted(held)
    assert split(items, 0.2, 1)[1] != held


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.99, 1)])
def test_a_split_leaves_one_on_each_side(share: float, count: int) -> None:
    assert len(split({"a": 1, "b": 2}, share, 0)[1]) == count


def test_padding() -> None:
    tokens, mask = pad_right([[5, 6, 7], [8]])
    np.testing.assert_array_equal(tokens, [[5, 6, 7], [8, 0, 0]])
    np.testing.assert_array_equal(mask, [[True] * 3, [True, False, False]])


def of_blocks(sizes: list[int]) -> list[EncodedPair]:
    return [
        EncodedPair(f"{n}/{i}", (1, 2), ((1,), (2,)), "", f"b{n}" if size > 1 else "")
        for n, size in enumerate(sizes)
        for i in range(size)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_blocks_stay_whole_and_steps_are_full(seed: int) -> None:
    rng = random.Random(seed)
    pairs = of_blocks([rng.choice((16, 16, 12, 5, 3, 2, 1, 1)) for _ in range(90)])
    rng.shuffle(pairs)
    epochs = [batches(pairs, 16, seed=seed, epoch=epoch) for epoch in range(3)]
    for made in epochs:
        assert sorted(index for step in made for index in step) == list(range(len(pairs)))
        assert max(map(len, made)) <= 16
        homes: dict[str, set[int]] = {}
        for number, step in enumerate(made):
            for index in step:
                if pairs[index].block:
                    homes.setdefault(pairs[index].block, set()).add(number)
        assert all(len(where) == 1 for where in homes.values())
        assert len(made) <= 1.1 * len(pairs) / 16 + 1
    assert len({len(made) for made in epochs}) == 1
    assert len({str(made) for made in epochs}) == 3
    assert epochs[0] == batches(pairs, 16, seed=seed, epoch=0)


def test_a_block_larger_than_a_step_is_a_step() -> None:
    pairs = of_blocks([9, 2, 2])
    assert sorted(map(len, batches(pairs, 4, seed=0, epoch=0))) == [4, 9]


def test_pairs_without_blocks_meet_at_random_whatever_their_context() -> None:
    pairs = [
        EncodedPair(f"{user}/{n}", (1, 2), ((1,), (2,)), f"u{user}")
        for user in range(16)
        for n in range(8)
    ]
    epochs = [batches(pairs, 8, seed=0, epoch=epoch) for epoch in range(40)]
    assert all(len(made) == 16 and set(map(len, made)) == {8} for made in epochs)
    meet = [
        sum(pairs[i].group == pairs[j].group for i in step for j in step if i < j) / 28
        for made in epochs
        for step in made
    ]
    assert np.mean(meet) == pytest.approx(7 / 127, abs=0.01)  # as often as chance has it
