"""Texts that are alike never stand on both sides, and are found where they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mipo_mlx.config import resolve
from mipo_mlx.data.split import alike, overlap, text_hash
from mipo_mlx.generation.inputs import read_inputs


@pytest.mark.parametrize(
    ("one", "other"),
    [("Where do I live?", "  where do\nI  live? "), ("ﬁne", "FINE"), ("Straße", "STRASSE")],
)
def test_case_space_and_forms_do_not_matter(one: str, other: str) -> None:
    assert text_hash(one) == text_hash(other)


def test_words_and_marks_matter() -> None:
    texts = ["Where do I live?", "Where do I live", "Where did I live?", "", "é", "e"]
    assert len(set(map(text_hash, texts))) == len(texts)


def test_names_with_like_texts_go_by_the_first() -> None:
    texts = [("a", "I row."), ("b", "I ski."), ("c", "i  ROW."), ("b", "I row.")]
    assert alike(texts) == {"a": "a", "b": "b", "c": "a"}


def test_overlap_names_the_places() -> None:
    assert overlap(["x", "Y", "z"], ["y ", "w"]) == [1]
    assert overlap([], ["y"]) == overlap(["y"], []) == []


@pytest.mark.parametrize("seed", range(6))
def test_copies_stay_on_one_side(tmp_path: Path, seed: int) -> None:
    users = [{"id": f"u{n}", "text": f"I live in town {n // 3}."} for n in range(24)]
    asked = [{"id": f"p{n}", "text": f"What of {n // 2}?"} for n in range(20)]
    for name, rows in (("users", users), ("asked", asked)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = {"contexts": str(tmp_path / "users.jsonl"), "prompts": str(tmp_path / "asked.jsonl")}
    inputs = read_inputs(resolve(flags={**flags, "seed": seed}).data)
    for train, held, count in (
        (inputs.train_contexts, inputs.held_contexts, 24),
        (inputs.train_prompts, inputs.held_prompts, 20),
    ):
        assert len(train) + len(held) == count
        assert train
        assert held
        assert not {item.text for item in train} & {item.text for item in held}
