"""Normal form, sentences, thoughts and refusals, by hand."""

from __future__ import annotations

import pytest

from mipo_mlx.grading.text import (
    declines,
    gives_up,
    normalise,
    sentences,
    spoken,
    strip_thinking,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" Straße \n Nr.\u00a07 ", "strasse nr. 7"),
        ("it\u2019s a semi\u2011colon", "it's a semi-colon"),
        ("ﬁne\u200b print", "fine print"),
        ("\u0130stanbul", "i\u0307stanbul"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two!  Three", ["One. ", "Two!  ", "Three"]),
        ("a\n\nb", ["a\n\n", "b"]),
        ('"Yes." Then no', ['"Yes." ', "Then no"]),
        ("**So 5.** Next", ["**So 5.** ", "Next"]),
        ("3.5 is one", ["3.5 is one"]),
        ("是。不是", ["是。", "不是"]),
        ("", []),
    ],
)
def test_sentences_joined_are_the_text(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts
    assert "".join(sentences(text)) == text


@pytest.mark.parametrize(
    ("text", "said", "thinking"),
    [
        ("<think>5?</think>\n6", "6", False),
        ("hm</think> 7 <think>a</think>8", " 7 8", False),
        ("9 <think>but", "9 ", True),
        ("<think>a", "", True),
        ("plain", "plain", False),
    ],
)
def test_what_is_said_aloud(text: str, said: str, thinking: bool) -> None:
    assert spoken(text) == (said, thinking)


def test_a_thought_without_end_or_start_stays() -> None:
    assert strip_thinking("<think>a</think> b <think>c") == "b <think>c"
    assert strip_thinking("a</think> b") == "a</think> b"


@pytest.mark.parametrize(
    ("text", "opens", "anywhere"),
    [
        ("I'm sorry, but I can't help with that.", True, True),
        ("As an AI, I have no town.", True, True),
        ("Unfortunately I cannot answer this.", True, True),
        ("You like tea. I can't help but love it.", False, True),
        ("It cannot be determined.", False, True),
        ("I don't know about you, but I love tea.", False, True),
        ("The can not full is 5.", False, False),
    ],
)
def test_refusals_at_the_start_and_anywhere(text: str, opens: bool, anywhere: bool) -> None:
    assert (declines(text), gives_up(text)) == (opens, anywhere)
