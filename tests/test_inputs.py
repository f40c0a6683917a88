"""Limits on what is read, and the wording of problems that are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mipo_mlx.config import resolve
from mipo_mlx.data.benchmarks import read_task
from mipo_mlx.generation.inputs import Inputs, read_inputs


def rows(path: Path, made: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return str(path)


def read(**flags: Any) -> Inputs:
    return read_inputs(resolve(flags=flags).data)


def users_of(inputs: Inputs) -> set[str]:
    return {user.owner for user in inputs.train_contexts + inputs.held_contexts}


def test_a_limit_draws_whole_users_with_their_own_prompts(tmp_path: Path) -> None:
    given = {
        "contexts": rows(
            tmp_path / "users.jsonl",
            [{"id": f"c{n}", "text": f"I am {n}.", "user": f"u{n // 2}"} for n in range(40)],
        ),
        "prompts": rows(
            tmp_path / "prompts.jsonl",
            [{"id": f"p{n}", "text": f"And {n}?", "context_id": f"c{n}"} for n in range(40)],
        ),
        "user_limit": 8,
    }
    inputs = read(**given)
    assert len(users_of(inputs)) == 8
    kept = inputs.train_contexts + inputs.held_contexts
    assert len(kept) == 16  # both contexts of each
    asked = inputs.train_prompts + inputs.held_prompts
    assert {prompt.context_id for prompt in asked} == {user.id for user in kept}
    assert not {u.owner for u in inputs.train_contexts} & {u.owner for u in inputs.held_contexts}
    assert users_of(read(**given)) == users_of(inputs)
    assert users_of(read(**given, seed=1)) != users_of(inputs)
    assert len(users_of(read(**{**given, "user_limit": 0}))) == 20
    assert len(users_of(read(**{**given, "user_limit": 99}))) == 20


def test_a_limit_on_prompts_leaves_those_of_users_alone(tmp_path: Path) -> None:
    own = [{"id": f"o{n}", "text": f"Mine {n}?", "context_id": f"u{n}"} for n in range(6)]
    free = [{"id": f"f{n}", "text": f"Any {n}?"} for n in range(30)]
    users = [{"id": f"u{n}", "text": f"I am {n}."} for n in range(6)]
    given = {
        "contexts": rows(tmp_path / "users.jsonl", users),
        "prompts": rows(tmp_path / "prompts.jsonl", free + own),
        "prompt_limit": 10,
    }
    inputs = read(**given)
    names = [prompt.id for prompt in inputs.train_prompts + inputs.held_prompts]
    assert sum(name.startswith("f") for name in names) == len(set(names)) - 6 == 10
    sides = [{p.id for p in side} for side in (inputs.train_prompts, inputs.held_prompts)]
    assert not sides[0] & sides[1]
    trained = read(**given, held_out_prompts=0.0, held_out_users=0.0).train_prompts
    assert sorted(prompt.id[0] for prompt in trained) == ["f"] * 10 + ["o"] * 6
    everything = read(**{**given, "prompt_limit": 0})
    assert len(everything.train_prompts + everything.held_prompts) == 36


def test_what_is_held_out_is_no_text_of_training_under_another_id(tmp_path: Path) -> None:
    given = {
        "contexts": rows(
            tmp_path / "users.jsonl",
            [{"id": f"u{n}", "text": f"I am {n}."} for n in range(40)],
        ),
        "prompts": rows(
            tmp_path / "prompts.jsonl",
            [
                {"id": f"{turn}{n}", "text": text, "context_id": f"u{n}"}
                for n in range(40)
                for turn, text in (("a", "Hello"), ("b", f"And {n}?"))
            ],
        ),
    }
    inputs = read(**given)
    assert inputs.held_out == "users and prompts"
    for held, trained in (
        (inputs.held_prompts, inputs.train_prompts),
        (inputs.held_contexts, inputs.train_contexts),
    ):
        assert held
        assert not {item.text for item in held} & {item.text for item in trained}
    assert len(inputs.train_contexts) == 32
    assert all(prompt.text != "Hello" for prompt in inputs.held_prompts)
    same = rows(tmp_path / "prompts.jsonl", [{"id": f"{n}", "text": "Hello"} for n in range(9)])
    nothing_new = read(**{**given, "prompts": same})
    assert nothing_new.held_prompts
    assert nothing_new.held_out == "users"


def test_problems_are_trained_on_in_the_wording_that_is_asked_for(tmp_path: Path) -> None:
    made = [{"question": f"What is {n} and 1?", "answer": f"#### {n + 1}"} for n in range(6)]
    file = rows(tmp_path / "g.jsonl", made)
    for style in ("ours", "paper"):
        inputs = read(objective="prompt", prompts=file, problem_prompts=style)
        texts = {prompt.text for prompt in inputs.train_prompts + inputs.held_prompts}
        assert texts == {prompt.text for prompt in read_task(Path(file), style)}
