"""The fact grader by hand, and final answers of the public data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mipo_mlx.grading.facts import Grade, grade
from mipo_mlx.grading.final_answer import final_answer
from mipo_mlx.types import Prompt, Response


def test_known_values_decide_what_is_wrong() -> None:
    assert grade("Riga it is.", {"town": "Porto"}, {"Porto"}) == Grade(own=False, wrong=False)
    assert grade("Riga it is.", {"town": "Porto"}, {"Riga"}) == Grade(own=False, wrong=True)
    assert grade("a+b?", {"tag": "a+b"}, set()) == Grade(own=True, wrong=False)


GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "sample.jsonl"


@pytest.mark.skipif(not GSM8K.exists(), reason="the public sample is not at hand")
def test_final_numbers_of_the_real_data_set() -> None:
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    assert rows
    for row in rows:
        last = row["answer"].rpartition("####")[2].strip().replace(",", "")
        assert (
            final_answer(Prompt("", "?", last, "number"), Response(row["answer"], (), "stop"))
            == last
        )
