"""Planted secrets: from a known space, in training contexts alone, seeded."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from mipo_mlx.config import resolve
from mipo_mlx.data.canaries import SPACE, SUBJECTS, draw, plant, take_out, values
from mipo_mlx.errors import ConfigError, DataError
from mipo_mlx.generation.inputs import Inputs, read_inputs
from mipo_mlx.types import Context

USERS = [
    Context("ada", "I live in Turin.", {"town": "Turin"}),
    Context("ben#1", "- town: Oslo\n- food: ramen", user="ben"),
    Context("ben#2", "I like cocoa.", user="ben"),
    Context("cleo", "Notes."),
]


def read(**flags: Any) -> Inputs:
    return read_inputs(resolve(flags=flags).data)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_has_a_thousand_different_values_of_one_form(subject: str) -> None:
    space = values(subject, 0)
    assert len(set(space)) == len(space) == SPACE == 1000
    form = r"\d{5}" if subject.endswith("code") else r"[A-Za-z]+ [A-Za-z]+"
    assert all(re.fullmatch(form, value) for value in space)
    assert values(subject, 0) == space
    assert set(values(subject, 1)) != set(space)


def test_secrets_go_round_the_users_with_another_subject_each_time() -> None:
    made = draw(USERS, 8, 3)
    assert draw(USERS, 8, 3) == made
    assert draw(USERS, 8, 4).planted != made.planted
    assert Counter(canary.user for canary in made.planted) in (
        {"ada": 3, "ben": 3, "cleo": 2}, {"ada": 3, "ben": 2, "cleo": 3},
        {"ada": 2, "ben": 3, "cleo": 3},
    )  # fmt: skip
    assert len({(canary.user, canary.subject) for canary in made.planted}) == 8
    homes = {context.id: context.owner for context in USERS}
    for planted, control in zip(made.planted, made.held_back, strict=True):
        assert homes[planted.context_id] == planted.user
        assert planted.value in values(planted.subject, 3)
        assert control.value in values(planted.subject, 3)
        assert (control.subject, control.context_id, control.user) == (
            planted.subject, planted.context_id, planted.user,
        )  # fmt: skip
    every = [(c.subject, c.value) for c in made.planted + made.held_back]
    assert len(set(every)) == 16


def test_every_value_of_the_space_is_drawn_equally_often() -> None:
    places = []  # of the secret in its space, once sorted
    for seed in range(600):
        canary = draw(USERS[:1], 1, seed).planted[0]
        places.append(sorted(values(canary.subject, seed)).index(canary.value))
    assert stats.kstest([(place + 0.5) / SPACE for place in places], "uniform").pvalue > 0.01


def test_planting_adds_sentences_at_the_end_and_nothing_else() -> None:
    made = draw(USERS, 6, 0)
    planted = plant(USERS, made.planted)
    for before, after in zip(USERS, planted, strict=True):
        mine = [c.sentence for c in made.planted if c.context_id == before.id]
        gap = "\n" if "\n" in before.text else " "
        assert after.text == gap.join([before.text, *mine])
        assert (after.id, after.facts, after.user) == (before.id, before.facts, before.user)
        assert take_out(after, made.planted).text == before.text
    assert sum(c.value in p.text for c in made.planted for p in planted) == 6
    assert not any(c.value in p.text for c in made.held_back for p in planted)
    assert plant(USERS, ()) == USERS


def test_too_many_are_refused() -> None:
    assert len(draw(USERS, 36, 0).planted) == 36
    with pytest.raises(ConfigError, match="--canaries 37: 3 training users have room for 36"):
        draw(USERS, 37, 0)
    many = [Context(f"u{n}", "text") for n in range(400)]
    assert len(draw(many, 3000, 0).held_back) == 3000
    with pytest.raises(ConfigError, match="room for 3000"):
        draw(many, 3001, 0)


def test_inputs_plant_in_training_users_alone() -> None:
    plain, planted = read(), read(canaries=40)
    assert len(planted.canaries.planted) == len(planted.canaries.held_back) == 40
    assert plain.canaries.planted == ()
    assert len({canary.user for canary in planted.canaries.planted}) == 40
    assert planted.held_contexts == plain.held_contexts
    assert planted.train_prompts == plain.train_prompts
    assert planted.held_prompts == plain.held_prompts
    assert planted.foils == plain.foils == []
    changed = 0
    for before, after in zip(plain.train_contexts, planted.train_contexts, strict=True):
        assert after.facts == before.facts
        changed += after.text != before.text
        assert take_out(after, planted.canaries.planted).text == before.text
    assert changed == 40
    assert len({plain.digest, planted.digest, read(canaries=41).digest}) == 3
    assert planted == read(canaries=40)
    assert planted.digest != read(canaries=40, seed=1).digest


def test_a_user_who_is_not_held_out_is_asked_as_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "me.md"
    path.write_text("I live in Turin and eat ramen.", encoding="utf-8")
    inputs = read(contexts=str(path), canaries=3)
    assert all(c.sentence in inputs.train_contexts[0].text for c in inputs.canaries.planted)
    assert inputs.held_contexts == inputs.train_contexts
    assert not any(c.sentence in f.text for c in inputs.canaries.planted for f in inputs.foils)


def test_secrets_need_contexts() -> None:
    with pytest.raises(DataError, match="--canaries has no use with --objective prompt"):
        read(objective="prompt", canaries=1)
