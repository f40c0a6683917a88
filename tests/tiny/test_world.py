"""The synthetic world: what it promises about itself, and the oracle that grades answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mipo_mlx import tiny
from mipo_mlx.data.readers import read_contexts, read_prompts
from mipo_mlx.grading.final_answer import final_answer
from mipo_mlx.tiny import dialogues, pretrain, words, world
from mipo_mlx.types import Prompt, Response

FACTS = {"town": "Porto", "drink": "port", "name": "Rosa", "pet": "python"}


def test_values_are_single_words_and_no_value_means_two_things() -> None:
    values = [value for group in words.VALUES.values() for value in group]
    assert len(values) == len({value.casefold() for value in values})
    assert all(len(value.split()) == 1 for value in values)


def test_no_wording_or_generic_answer_holds_a_value() -> None:
    """Else the oracle would see facts where there are none."""
    plain = [text for group in words.QUESTIONS.values() for text in group]
    for _, wordings, own, generic in words.TOPICS.values():
        plain += [*wordings, *generic, *(text.replace("{}", "") for text in own)]
    for text in [*plain, *(t.replace("{}", "") for g in words.PROSE.values() for t in g)]:
        assert world.grade(text, {}) == world.Grade(own=False, wrong=False), text


def test_there_are_enough_topics_and_wordings_and_all_differ() -> None:
    assert len(words.TOPICS) >= 12
    assert {len(wordings) for _, wordings, _, _ in words.TOPICS.values()} == {6}
    every = [w for _, wordings, _, _ in words.TOPICS.values() for w in wordings]
    assert len(set(every)) == len(every)


def test_a_seed_fixes_the_world() -> None:
    assert world.make_users(9, 3, held_out=False) == world.make_users(9, 3, held_out=False)
    assert world.make_users(9, 3, held_out=False) != world.make_users(9, 4, held_out=False)
    user = world.make_users(1, 0, held_out=True)[0]
    assert world.write_context(user, 1) == world.write_context(user, 1)
    for maker in (world.word_problems, world.choices):
        assert maker(9, 3, held_out=False) == maker(9, 3, held_out=False)


def test_contexts_come_in_three_styles_and_hold_every_fact() -> None:
    starts = set()
    for index, user in enumerate(world.make_users(60, 0, held_out=False)):
        text = world.write_context(user, index)
        starts.add("bullets" if text[0] == "-" else "note" if "About me" in text else "prose")
        for value in user.facts.values():
            assert f" {value}" in text
        assert not world.grade(text, user.facts).wrong
    assert starts == {"bullets", "note", "prose"}


def test_what_is_held_out_is_never_pretrained_on() -> None:
    rng = random.Random(0)
    held = {item.text for item in world.requests(held_out=True)}
    assert len(held) * 6 == len(world.requests(held_out=False)) + len(held)
    for index in range(3000):
        context, turns = dialogues.turn(rng, 1 + index % len(dialogues.STAGES))
        for prompt, _ in turns:
            assert prompt not in held
            if "\nA. " in prompt or "How many" in prompt:
                assert not world.is_held_out(prompt)
        assert context is None or "{}" not in context
    for user in world.make_users(50, 0, held_out=True):
        assert world.is_held_out("|".join(user.facts.values()))


def test_the_packaged_samples_are_the_worlds_and_their_sides_share_nothing(tmp_path: Path) -> None:
    pretrain.write_samples(tmp_path)
    for made in tmp_path.iterdir():
        assert made.read_text() == (tiny.SAMPLES_DIR / made.name).read_text(), made.name
    for kind, read in (
        ("contexts", read_contexts),
        ("prompts", read_prompts),
        ("problems", read_prompts),
    ):
        train, held = (
            read(tiny.SAMPLES_DIR / f"{kind}_{side}.jsonl") for side in ("train", "heldout")
        )
        assert not {item.text for item in train} & {item.text for item in held}
        assert not {item.id for item in train} & {item.id for item in held}


@pytest.mark.parametrize(
    ("text", "own", "wrong"),
    [
        ("Walk through the old streets of Porto.", True, False),
        ("walk through PORTO, rosa!", True, False),
        ("Walk through the old streets of Riga.", False, True),
        ("From Porto to Riga.", False, True),
        ("Take a long walk and rest.", False, False),
        ("Bring your portrait.", False, False),  # holds "port" as a part of a word
        ("Pythons are nice.", False, False),
        ("", False, False),
    ],
)
def test_grades(text: str, own: bool, wrong: bool) -> None:
    assert world.grade(text, FACTS) == world.Grade(own=own, wrong=wrong)


def said(item: world.Problem, kind: str) -> str | None:
    solution = Response(item.solution, (), "stop")
    return final_answer(Prompt("", item.text, item.answer, kind), solution)


def test_solutions_are_right() -> None:
    for item in world.word_problems(200, 1, held_out=True):
        sums, final = item.solution.split("\n#### ")
        left, right = sums.split(" = ")
        assert eval(left) == int(right) == int(final) == int(item.answer) >= 0
        assert said(item, "number") == item.answer
    for item in world.choices(200, 1, held_out=True):
        word = item.text.split("What is ")[1].split("?")[0]
        offered = dict(line.split(". a ") for line in item.text.split("\n")[1:])
        right = [label for label, kind in offered.items() if word in words.VALUES[kind]]
        assert right == [item.answer]
        assert 3 <= len(offered) <= 5
        assert said(item, "choice") == item.answer
