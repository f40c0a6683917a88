"""Who is contrasted with whom, what is dropped, what is held out, and the order of training."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from mipo_mlx.data.batches import EncodedPair, batches, pad_right
from mipo_mlx.data.negatives import Contrast, contrast, derangement
from mipo_mlx.data.pairs import (
    filter_pairs,
    filter_scored,
    length_summary,
    match_lengths,
    pmi_summary,
)
from mipo_mlx.data.split import split
from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, PreferencePair, Prompt, Response

USERS = [Context(f"u{n}", f"I am number {n}.") for n in range(7)]
PROMPTS = [Prompt(f"p{n}", f"Question {n}?") for n in range(5)]


def make(
    users: list[Context] = USERS,
    prompts: list[Prompt] = PROMPTS,
    objective: str = "context",
    negatives: str = "random",
    each: int = 3,
    seed: int = 0,
    **more: Any,
) -> list[Contrast]:
    return contrast(
        users,
        prompts,
        objective=objective,
        negatives=negatives,
        prompts_per_context=each,
        seed=seed,
        **more,
    )


def test_derangements_are_uniform() -> None:
    rng = random.Random(1)
    counts = Counter(tuple(derangement(4, rng)) for _ in range(9000))
    assert len(counts) == 9  # !4
    assert all(value != index for order in counts for index, value in enumerate(order))
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_no_derangement_of_one() -> None:
    with pytest.raises(ValueError, match="derangement of 1"):
        derangement(1, random.Random(0))


@pytest.mark.parametrize("seed", range(5))
def test_random_negatives_derange_the_users_of_each_prompt(seed: int) -> None:
    made = make(seed=seed)
    assert len(made) == len(USERS) * 3 == len({item.id for item in made})
    assert set(Counter(item.context_id for item in made).values()) == {3}
    asked = Counter(item.prompt_id for item in made)
    assert max(asked.values()) - min(asked.values()) <= 1  # balanced decks
    for prompt in PROMPTS:
        group = [item for item in made if item.prompt_id == prompt.id]
        assert all(item.context_id != item.negative_context_id for item in group)
        assert {i.context_id for i in group} == {i.negative_context_id for i in group}


def test_users_with_the_same_text_are_never_each_others_negatives() -> None:
    users = [Context("a", "same"), Context("b", "same"), Context("c", "other")]
    for seed in range(20):
        for item in make(users, each=0, seed=seed):
            assert {item.context_id, item.negative_context_id} != {"a", "b"}
            assert item.context_id != item.negative_context_id


def test_missing_negatives_have_no_context_and_allow_one_user() -> None:
    made = make(USERS[:1], negatives="missing", each=0)
    assert [(i.context_id, i.negative_context_id) for i in made] == [("u0", "")] * 5


@pytest.mark.parametrize("negatives", ["random", "mixed"])
def test_contexts_of_one_user_are_never_each_others_negatives(negatives: str) -> None:
    parts = [Context(f"u{n}#{m}", f"{n} {m}", user=f"u{n}") for n in range(4) for m in range(3)]
    owner = {part.id: part.owner for part in parts}
    for seed in range(5):
        made = make(parts, negatives=negatives, each=0, seed=seed, num_negatives=3)
        assert len(made) == len(parts) * len(PROMPTS) * 3
        rows: dict[tuple[str, str], list[str]] = {}
        for item in made:
            rows.setdefault((item.context_id, item.prompt_id), []).append(item.negative_context_id)
        for (context_id, _), others in rows.items():
            users = [owner.get(other, "") for other in others]
            assert owner[context_id] not in users
            assert len(set(users)) == 3
    with pytest.raises(DataError, match=r"need 5 users .* not 4"):
        make(parts, num_negatives=4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_mixed_negatives_of_one_user_keep_their_share_too(share: float) -> None:
    foils = [Context("foil-0", "Invented.")]
    prompts = [Prompt(f"p{n}", f"Question {n}?") for n in range(10)]
    made = make(USERS[:1], prompts, "context", "mixed", 0, missing_share=share, foils=foils)
    assert sum(not item.negative_context_id for item in made) == round(10 * share)


def test_foils_are_wrong_contexts_only() -> None:
    foils = [Context(f"foil-{n}", f"Invented {n}.") for n in range(4)]
    made = make(USERS[:1], each=0, num_negatives=4, foils=foils)
    assert {item.context_id for item in made} == {"u0"}
    for prompt in PROMPTS:
        others = [item.negative_context_id for item in made if item.prompt_id == prompt.id]
        assert sorted(others) == ["foil-0", "foil-1", "foil-2", "foil-3"]


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("each", [0, 3])
def test_several_negatives_are_different_users_and_serve_in_balance(k: int, each: int) -> None:
    made = make(each=each, num_negatives=k)
    assert len({item.id for item in made}) == len(made) == len(USERS) * (each or len(PROMPTS)) * k
    for prompt in PROMPTS:
        group = [item for item in made if item.prompt_id == prompt.id]
        asked = {item.context_id for item in group}
        for user in asked:
            others = [i.negative_context_id for i in group if i.context_id == user]
            assert len(set(others)) == k
            assert user not in others
        if len(asked) > k:
            served = Counter(item.negative_context_id for item in group)
            assert served == dict.fromkeys(asked, k)


def test_mixed_negatives_keep_their_share() -> None:
    for share, wanted in ((0.0, 0), (0.43, 3), (1.0, 7)):
        made = make(negatives="mixed", each=0, missing_share=share)
        for prompt in PROMPTS:
            group = [item for item in made if item.prompt_id == prompt.id]
            assert sum(item.negative_context_id == "" for item in group) == wanted
    made = make(negatives="mixed", each=0, missing_share=1.0, num_negatives=3)
    assert sum(item.negative_context_id == "" for item in made) == len(made) / 3


def test_prompt_negatives_are_the_same_users_other_answers() -> None:
    made = make(negatives="prompt", num_negatives=2)
    assert made
    for item in made:
        assert item.negative_context_id == item.context_id
        assert item.negative_prompt_id not in ("", item.prompt_id)


def test_the_prompt_objective_deranges_prompts() -> None:
    made = make([], objective="prompt")
    assert [item.prompt_id for item in made] == [prompt.id for prompt in PROMPTS]
    assert sorted(item.negative_prompt_id for item in made) == sorted(p.id for p in PROMPTS)
    assert all(item.prompt_id != item.negative_prompt_id for item in made)


def test_seed_fixes_the_contrasts_and_another_seed_changes_them() -> None:
    assert make(seed=3) == make(seed=3)
    assert make(seed=3) != make(seed=4)


@pytest.mark.parametrize(
    ("users", "prompts", "objective", "message"),
    [
        (USERS[:1], PROMPTS, "context", "need 2 users"),
        ([Context("a", "x"), Context("b", "x")], PROMPTS, "context", "need 2 users"),
        (USERS, [], "context", "no prompts"),
        ([], PROMPTS[:1], "prompt", "2 different prompts"),
    ],
)
def test_too_little_to_contrast(
    users: list[Context], prompts: list[Prompt], objective: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(users, prompts, objective)


def test_more_negatives_than_users() -> None:
    with pytest.raises(DataError, match="need 8 users"):
        make(num_negatives=7)
    with pytest.raises(DataError, match="cannot be missing"):
        make(negatives="missing", num_negatives=2)


def pair(chosen: str, rejected: str, reason: str = "stop") -> PreferencePair:
    sides = (Response(chosen, (1, 2, 3), reason), Response(rejected, (1, 2), "stop"))
    return PreferencePair("id", ({"role": "user", "content": "q"},), *sides)


def test_useless_pairs_are_dropped_and_counted_by_reason() -> None:
    good = pair("yes", "no")
    kept, dropped = filter_pairs(
        [
            good,
            pair("same", " same "),
            pair("Same, again!", "same again"),
            pair("", "no"),
            pair("a", " "),
            pair("x", "y", "length"),
            pair("I'm sorry, but I can't help with that.", "Walk."),
            pair("Walk.", "As an AI, I have no feelings."),
            pair("<think>hm", "Walk."),
        ]
    )
    assert kept == [good]
    assert {reason: count for reason, count in dropped.items() if count} == {
        "equal": 1,
        "near_equal": 1,
        "empty": 2,
        "cut_off": 1,
        "refusal": 2,
        "thinking": 1,
    }
    assert length_summary(kept) == {"chosen_tokens": 3.0, "rejected_tokens": 2.0, "ratio": 1.5}


@pytest.mark.parametrize(
    "text",
    [
        "Sorry for the wait. Walk along the river.",
        "I can help with that: walk.",
        "I cannot recommend the river path enough!",
        "As an AIrline pilot you know the way.",
    ],
)
def test_answers_that_only_look_like_refusals_are_kept(text: str) -> None:
    assert filter_pairs([pair(text, "Walk.")])[0]


def test_answers_in_another_language_are_dropped_when_asked_for() -> None:
    english = "You could cook a soup with beans and a little rice tonight."
    german = "Du könntest heute Abend eine Suppe mit Bohnen und etwas Reis kochen."
    question = {"role": "user", "content": "What should I cook for my friends tonight?"}
    frage = {"role": "user", "content": "Was soll ich heute Abend für meine Freunde kochen?"}

    def asked(message: dict[str, str], chosen: str, rejected: str) -> PreferencePair:
        return replace(pair(chosen, rejected), messages=(message,))

    pairs = [
        asked(question, english, "Soup."),
        asked(question, german, english),
        asked(frage, german, "Suppe!"),
        asked(frage, "Reis.", english),
        asked({"role": "user", "content": "Hm?"}, german, english),
    ]
    kept, dropped = filter_pairs(pairs, same_language=True)
    assert kept == [pairs[0], pairs[2], pairs[4]]
    assert dropped["language"] == 2
    assert filter_pairs(pairs)[0] == pairs


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


def test_batches_hold_every_pair_once_and_pad_less_than_chance() -> None:
    rng = random.Random(0)
    pairs = [
        EncodedPair(str(n), (1,) * rng.randint(5, 200), ((1,) * rng.randint(1, 50), (1,)))
        for n in range(103)
    ]
    made = batches(pairs, 8, seed=0, epoch=0)
    assert sorted(index for batch in made for index in batch) == list(range(103))
    assert sorted(map(len, made)) == [7] + [8] * 12
    assert made == batches(pairs, 8, seed=0, epoch=0)
    assert made != batches(pairs, 8, seed=0, epoch=1)
    assert made != batches(pairs, 8, seed=1, epoch=0)

    def padding(groups: list[list[int]]) -> int:
        return sum(
            max(pairs[i].length for i in group) * len(group) - sum(pairs[i].length for i in group)
            for group in groups
        )

    plain = list(range(103))
    rng.shuffle(plain)
    assert padding(made) < 0.5 * padding([plain[i : i + 8] for i in range(0, 103, 8)])


def test_batches_keep_a_context_together_and_mix_its_pairs_anew_each_epoch() -> None:
    pairs = [
        EncodedPair(f"{user}/{n}", (1,) * (20 + user), ((1,), (1,)), f"u{user}")
        for user in range(12)
        for n in range(4 + 4 * (user % 3))
    ]
    epochs = [batches(pairs, 4, seed=0, epoch=epoch) for epoch in range(3)]
    for made in epochs:
        assert sorted(index for batch in made for index in batch) == list(range(len(pairs)))
        assert all(len({pairs[index].group for index in batch}) == 1 for batch in made)
    meetings = [{frozenset(batch) for batch in made} for made in epochs]
    assert len(meetings[0] & meetings[1]) < len(meetings[0])
    ragged = batches(pairs[1:], 8, seed=0, epoch=0)
    assert [len(batch) for batch in ragged if len(batch) < 8] in ([], [(len(pairs) - 1) % 8])
