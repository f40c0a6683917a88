"""The texts that come along: as many as promised, all different, and labelled for what they are."""

from __future__ import annotations

import json
import re

from mipo_mlx.data import builtin
from mipo_mlx.data.readers import read_contexts, read_prompts
from mipo_mlx.tiny import world


def test_two_hundred_everyday_prompts() -> None:
    texts = [prompt.text for prompt in read_prompts(builtin.PROMPTS)]
    assert len(texts) == len({text.casefold() for text in texts}) == 200


def test_paragraphs_and_neutral_requests_are_about_nobody() -> None:
    for path in (builtin.PARAGRAPHS, builtin.NEUTRAL):
        texts = [prompt.text for prompt in read_prompts(path)]
        assert len(texts) == len({text.casefold() for text in texts}) == 24
        for text in texts:
            assert not set(re.findall(r"\w+", text.casefold())) & {"i", "me", "my", "you", "your"}
            assert not world.grade(text, {}).wrong, text  # no value of the synthetic world
            if path == builtin.PARAGRAPHS:
                assert 12 <= len(text.split()) <= 40, text


def test_sixty_four_foils_are_varied_and_say_that_they_are_invented() -> None:
    rows = [json.loads(line) for line in builtin.FOILS.read_text(encoding="utf-8").splitlines()]
    assert all(row["invented"] is True for row in rows)
    foils = read_contexts(builtin.FOILS)
    assert [foil.id for foil in foils] == [f"foil-{number:02d}" for number in range(1, 65)]
    words = [set(re.findall(r"\w{4,}", foil.text.casefold())) for foil in foils]
    alike = [
        len(one & other) / len(one | other)
        for index, one in enumerate(words)
        for other in words[:index]
    ]
    assert max(alike) < 0.3
    assert all(12 <= len(foil.text.split()) <= 60 for foil in foils)
