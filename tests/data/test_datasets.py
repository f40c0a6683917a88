"""Public data sets in their published form: real samples where they are at hand, made-up rows else.

The rows written here are synthetic, in the published columns; they hold nobody's words.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mipo_mlx.config import resolve
from mipo_mlx.data.blocks import draw
from mipo_mlx.data.grid import Rules, lay_out
from mipo_mlx.data.hub import local_file
from mipo_mlx.data.readers import read_contexts, read_prompts
from mipo_mlx.errors import DataError
from mipo_mlx.generation.inputs import read_inputs

SAMPLES = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"no sample {name} here")
    return path


def survey(count: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "user_id": f"user{n}",
            "survey_only": False,
            "self_description": f"I keep {n} bees." if n else None,
            "system_string": "Be brief.",
            "stated_prefs": {"values": 10, "factuality": 90 + n, "other": 3, "other_text": "x"},
        }
        for n in range(count)
    ]


def conversations(count: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "conversation_id": f"c{n}{turn}",
            "user_id": f"user{n}",
            "opening_prompt": f" What of {turn}? ",
            "conversation_history": [],
        }
        for n in range(count)
        for turn in range(2)
    ]


def test_prism(tmp_path: Path) -> None:
    users = read_contexts(write(tmp_path / "survey.jsonl", survey()))
    assert [user.id for user in users] == [f"user{n}" for n in range(6)]
    assert users[2].text == (
        "About me: I keep 2 bees.\nHow you should be: Be brief.\n"
        "What matters to me, of 100: factuality 92, values 10"
    )
    assert users[0].text.startswith("How you should be")
    asked = read_prompts(write(tmp_path / "conversations.jsonl", conversations()))
    assert (asked[3].id, asked[3].text, asked[3].context_id) == ("c11", "What of 1?", "user1")
    made = draw(lay_out(users, [], asked, Rules()), Rules()).contrasts
    owner = {prompt.id: prompt.context_id for prompt in asked}
    assert sorted(item.prompt_id for item in made) == sorted([*owner, *owner])
    for item in made:  # its owner's answer against another user's, and the other way round
        assert item.context_id != item.negative_context_id
        assert owner[item.prompt_id] in (item.context_id, item.negative_context_id)


def test_prompts_of_a_held_out_user_are_held_out_with_that_user(tmp_path: Path) -> None:
    config = resolve(
        flags={
            "contexts": str(write(tmp_path / "survey.jsonl", survey(20))),
            "prompts": str(write(tmp_path / "conversations.jsonl", conversations(20))),
        }
    ).data
    inputs = read_inputs(config)
    assert inputs.held_out == "users"  # for everybody asks the same
    for users, prompts in (
        (inputs.train_contexts, inputs.train_prompts),
        (inputs.held_contexts, inputs.held_prompts),
    ):
        assert {prompt.context_id for prompt in prompts} == {user.id for user in users}
    assert len(inputs.train_prompts) + len(inputs.held_prompts) == 40


def test_a_prompt_of_nobody_known_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = [*conversations(6), {**conversations()[0], "conversation_id": "x", "user_id": "ghost"}]
    config = resolve(
        flags={
            "contexts": str(write(tmp_path / "survey.jsonl", survey())),
            "prompts": str(write(tmp_path / "conversations.jsonl", rows)),
        }
    ).data
    with pytest.raises(DataError, match=r"conversations.jsonl:13: prompt 'x' .*'ghost'"):
        read_inputs(config)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json"])
def test_community_alignment(tmp_path: Path, ending: str) -> None:
    empty = {".csv": "EMPTY STRING", ".jsonl": None, ".json": "NaN"}[ending]
    rows = [
        {
            "conversation_id": f"c{n}",
            "assigned_lang": "it" if n % 2 else "en",
            "annotator_id": f"a{n % 2}",
            "first_turn_prompt": f"Question {n}",
            "first_turn_response_a": "One.",
            "first_turn_response_b": "Two.",
            "first_turn_preferred_response": "response_b",
            "first_turn_feedback": "It is short." if n == 0 else empty,
            "second_turn_prompt": empty,
            "second_turn_preferred_response": empty,
            "third_turn_prompt": f"And {n}?",
            "third_turn_preferred_response": empty,
        }
        for n in range(8)
    ]
    path = write(tmp_path / f"community_alignment{ending}", rows)
    users, asked = read_contexts(path), read_prompts(path)
    assert [(user.id, user.language) for user in users] == [("a0", "en"), ("a1", "it")]
    assert users[0].text == (
        "I asked: Question 0\nI liked this answer best: Two.\nBecause: It is short.\n"
        "I asked: And 0?\n\n"
        "I asked: Question 4\nI liked this answer best: Two.\nI asked: And 4?"
    )
    assert [(p.id, p.text, p.context_id) for p in asked] == [
        ("a0/c2", "Question 2", "a0"),
        ("a0/c6", "Question 6", "a0"),
        ("a1/c3", "Question 3", "a1"),
        ("a1/c7", "Question 7", "a1"),
    ]
    assert not any(p.text in user.text for p in asked for user in users)
    with pytest.raises(DataError, match="2 users with different contexts of language 'en', not 1"):
        lay_out(users, [], asked, Rules())


def test_negatives_are_of_the_same_language(tmp_path: Path) -> None:
    rows = [
        {"id": f"u{n}", "text": f"text {n}", "language": "it" if n % 3 else "en"} for n in range(12)
    ]
    users = read_contexts(write(tmp_path / "users.jsonl", rows))
    prompts = read_prompts(write(tmp_path / "prompts.jsonl", [{"text": "a"}, {"text": "b"}]))
    spoken = {user.id: user.language for user in users}
    for k in (1, 2, 3):
        rules = Rules(num_negatives=k)
        made = draw(lay_out(users, [], prompts, rules), rules).contrasts
        assert len(made) == 24 * k
        for item in made:
            assert item.context_id != item.negative_context_id
            assert spoken[item.context_id] == spoken[item.negative_context_id]


def test_multifaceted_bench_and_its_form_before_release(tmp_path: Path) -> None:
    rows = [
        {"source": "s", "system": f"You like {n}.", "prompt": f"Ask {n}", "rubrics": []}
        for n in range(3)
    ]
    path = write(tmp_path / "bench.jsonl", rows)
    users, asked = read_contexts(path), read_prompts(path)
    assert [user.text for user in users] == ["You like 0.", "You like 1.", "You like 2."]
    assert [(p.text, p.context_id) for p in asked][2] == ("Ask 2", users[2].id)
    for name in (
        "multi_bench/readme_instances.jsonl",
        "multi_bench/readme_instance_old_schema.json",
    ):
        real = sample(name)
        (user,), (prompt,) = read_contexts(real), read_prompts(real)
        assert prompt.context_id == user.id
        assert user.text.startswith("You ")


def test_synthetic_persona_chat() -> None:
    path = sample("synthetic_persona_chat/sample.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = {row[f"user {side} personas"].strip() for row in rows for side in (1, 2)}
    users = read_contexts(path)
    assert {user.text for user in users} == texts
    assert len(users) == len(texts)
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["prefeval/sample.jsonl", "prefeval/implicit_choice_sample.jsonl"])
def test_prefeval(name: str) -> None:
    path = sample(name)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    users, asked = read_contexts(path), read_prompts(path)
    assert [user.text for user in users] == [row["preference"].strip() for row in rows]
    assert [prompt.text for prompt in asked] == [row["question"].strip() for row in rows]
    assert [prompt.context_id for prompt in asked] == [user.id for user in users]


def test_files_of_a_data_set_that_hold_something_else_are_named(tmp_path: Path) -> None:
    chats = write(tmp_path / "conversations.jsonl", conversations())
    people = write(tmp_path / "survey.jsonl", survey())
    said = write(
        tmp_path / "utterances.jsonl",
        [{"utterance_id": "u", "user_id": "x", "user_prompt": "?", "score": 3}],
    )
    for path, read, hint in (
        (chats, read_contexts, "survey.jsonl"),
        (people, read_prompts, "conversations.jsonl"),
        (said, read_prompts, "conversations.jsonl"),
        (said, read_contexts, "survey.jsonl"),
    ):
        with pytest.raises(DataError, match="holds no") as caught:
            read(path)
        assert hint in caught.value.hint


def faults() -> Iterator[tuple[str, dict[str, Any], str]]:
    yield "survey", {**survey()[1], "user_id": None}, "'user_id' must be"
    yield "survey", {**survey()[1], "self_description": 3}, "'self_description' must be a string"
    yield "survey", {**survey()[1], "stated_prefs": "high"}, "'stated_prefs' must be an object"
    yield "survey", survey()[0], "stands on line 1 too"
    yield "chats", {**conversations()[1], "opening_prompt": " "}, "'opening_prompt' is empty"
    yield "chats", {**conversations()[1], "user_id": True}, "'user_id' must be"
    alignment = {"conversation_id": "c", "annotator_id": "a", "first_turn_prompt": "?"}
    yield "ca", {**alignment, "first_turn_preferred_response": "b"}, "must name a response"
    yield "ca", {**alignment, "annotator_id": ""}, "'annotator_id' must be"
    yield "bench", {"system": 1, "prompt": "p", "rubrics": []}, "'system' must be a string"
    yield "prefs", {"preference": "I do.", "question": None}, "'question' must be a string"
    yield "chat", {"user 1 personas": "a", "user 2 personas": ""}, "'user 2 personas' is empty"


GOOD: dict[str, dict[str, Any]] = {
    "survey": survey()[0],
    "chats": conversations()[0],
    "ca": {"conversation_id": "d", "annotator_id": "a", "first_turn_prompt": "?"},
    "bench": {"system": "s", "prompt": "p", "rubrics": []},
    "prefs": {"preference": "I do.", "question": "What?"},
    "chat": {"user 1 personas": "a", "user 2 personas": "b"},
}


@pytest.mark.parametrize(("kind", "row", "message"), list(faults()))
def test_a_malformed_row_is_told_with_its_line(
    tmp_path: Path, kind: str, row: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / f"{kind}.jsonl", [GOOD[kind], row])
    read: Any = read_prompts if kind in ("chats", "prefs") else read_contexts
    with pytest.raises(DataError, match=rf"{kind}.jsonl:2: .*{message}") as caught:
        read(path)
    assert caught.value.hint


def test_a_file_on_the_hub_is_downloaded_once_and_read(tmp_path: Path) -> None:
    path = write(tmp_path / "survey.jsonl", survey())
    calls: list[dict[str, Any]] = []

    def download(**where: Any) -> str:
        calls.append(where)
        if where.pop("local_files_only", False):
            raise FileNotFoundError
        return str(path)

    address = "hf://datasets/HannahRoseKirk/prism-alignment@v1/data/survey.jsonl"
    assert local_file(address, download=download) == path
    assert calls[-1] == {
        "repo_id": "HannahRoseKirk/prism-alignment",
        "filename": "data/survey.jsonl",
        "repo_type": "dataset",
        "revision": "v1",
    }
    with pytest.raises(DataError, match="--offline"):
        local_file(address, offline=True, download=download)
    with pytest.raises(DataError, match="no file on the hub"):
        local_file("hf://survey.jsonl", download=download)
    assert len(calls) == 3
    for spelt in ("refs/convert/parquet", "refs%2Fconvert%2Fparquet"):
        local_file(f"hf://datasets/a/b@{spelt}/default/train/0000.parquet", download=download)
        assert calls[-1]["revision"] == "refs/convert/parquet"
        assert calls[-1]["filename"] == "default/train/0000.parquet"

    def refuse(**where: Any) -> str:
        raise ConnectionError

    with pytest.raises(DataError, match=r"could not be downloaded \(ConnectionError\)"):
        local_file(address, download=refuse)
    assert local_file(str(path)) == path
