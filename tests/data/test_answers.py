"""Parsers and the fact grader, on made-up texts and on the public data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mipo_mlx.grading.facts import Grade, grade, parse_choice, parse_number


def test_known_values_decide_what_is_wrong() -> None:
    assert grade("Riga it is.", {"town": "Porto"}, {"Porto"}) == Grade(own=False, wrong=False)
    assert grade("Riga it is.", {"town": "Porto"}, {"Riga"}) == Grade(own=False, wrong=True)
    assert grade("a+b?", {"tag": "a+b"}, set()) == Grade(own=True, wrong=False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 4\n#### 1,234", "1234"),
        ("#### -3", "-3"),
        ("#### $12", "12"),
        ("#### 2 no\n#### 7", "7"),
        ("The result is 12.", None),
        ("####", None),
    ],
)
def test_parse_number(text: str, answer: str | None) -> None:
    assert parse_number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is: C", "C"),
        ("the answer is (b).", "B"),
        ("The answer is 3", "3"),
        ("The answer is: A. No, the answer is: D", "D"),
        ("The answer is: Apple", None),
        ("I would say C", None),
    ],
)
def test_parse_choice(text: str, answer: str | None) -> None:
    assert parse_choice(text) == answer


GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "sample.jsonl"


@pytest.mark.skipif(not GSM8K.exists(), reason="the public sample is not at hand")
def test_parse_number_on_the_real_data_set() -> None:
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    assert rows
    for row in rows:
        last = row["answer"].rpartition("####")[2].strip().replace(",", "")
        assert parse_number(row["answer"]) == last
