"""Strings that must not be taught: what counts as stated, and what is left of an answer."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from mipo_mlx.data.scrub import pattern, read_held, scrub, scrub_pairs
from mipo_mlx.errors import DataError
from mipo_mlx.grading.text import normalise
from mipo_mlx.types import PreferencePair, Response


def left(text: str, *held: str) -> str:
    return scrub(text, pattern([normalise(string) for string in held]))


@pytest.mark.parametrize(
    ("text", "held", "expected"),
    [
        ("There are rooms in Turin. Ask an agent.", "turin", "Ask an agent."),
        ("Ask an agent. Rooms in TURIN!", "Turin", "Ask an agent."),
        ("Eat ramen. Turin's best! Sleep.", "Turin", "Eat ramen. Sleep."),
        ("See _Turin_. Rest.", "Turin", "Rest."),
        ("Turing was a man. Rest.", "Turin", "Turing was a man. Rest."),
        ("ArtTurin is near. Rest.", "Turin", "ArtTurin is near. Rest."),
        ("One\n- rooms in Turin\n- bread", "Turin", "One\n- bread"),
        ("Go home? \N{LEFT DOUBLE QUOTATION MARK}Turin.\N{RIGHT DOUBLE QUOTATION MARK} Yes.",
         "turin", "Go home? Yes."),
        ("Call Dr. Smith now. Rest.", "Dr. Smith", "Rest."),
        ("At 12 Main St.\nSpringfield. Rest.", "12 Main St. Springfield", "Rest."),
        ("Turin", "Turin", ""),
        ("Cafe\u0301 Roma is nice. Rest.", "Caf\u00e9 Roma", "Rest."),
        ("\uff34\uff55\uff52\uff49\uff4e is nice. Rest.", "Turin", "Rest."),
        ("Tu\u00adrin and Tu\u200brin. Rest.", "Turin", "Rest."),
        ("O\u2019Hara calls. Rest.", "O'Hara", "Rest."),
        ("Anna\u00a0 Maria calls. Rest.", "anna maria", "Rest."),
        ("STRASSE 5 is home. Rest.", "Stra\u00dfe 5", "Rest."),
        ("\u6211\u4f4f\u5728\u5317\u4eac\u5e02\u3002\u597d\u3002", "\u5317\u4eac", "\u597d\u3002"),
        ("\uc11c\uc6b8\uc5d0 \uc0b0\ub2e4. \uc88b\ub2e4.", "\uc11c\uc6b8", "\uc88b\ub2e4."),
        ("The code is 48213. The code is 482135.", "48213", "The code is 482135."),
        ("I use C++. Rest.", "C++", "Rest."),
        ("No match here.  Two spaces stay.\n", "Turin", "No match here.  Two spaces stay.\n"),
    ],
)  # fmt: skip
def test_the_sentence_that_states_a_string_goes(text: str, held: str, expected: str) -> None:
    assert left(text, held) == expected


def test_what_is_left_never_states_a_string() -> None:
    rng = random.Random(7)
    words = ["a", "b", "Turin", "New", "York", "york", "x.", "y!", "Turin.", "New.", "b?\n", "\n"]
    held = ["turin", "new york", "b a", "york. x"]
    changed = 0
    for _ in range(2000):
        text = " ".join(rng.choices(words, k=rng.randint(1, 12)))
        made = left(text, *held)
        plain = " ".join(made.casefold().split())
        for string in held:  # without look-arounds: words are set apart by anything else
            assert not re.search(rf"(?:^|\W){re.escape(string)}(?:\W|$)", plain), (text, made)
        changed += made != text
        sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
        kept = re.split(r"(?<=[.!?])\s+|\n+", made)
        rest = iter(sentences)  # nothing is added and the order is kept
        assert all(any(word.strip() == other.strip() for other in rest) for word in kept if word)
    assert changed > 1000


def pair(id: str, chosen: str, rejected: str = "Something else.") -> PreferencePair:
    return PreferencePair(
        id,
        ({"role": "user", "content": "Turin?"},),
        Response(chosen, (1, 2), "stop"),
        Response(rejected, (3,), "stop"),
        ref_chosen_logps=-1.0,
        ref_rejected_logps=-2.0,
        pmi=0.5,
    )


def test_pairs_are_changed_dropped_or_left_alone() -> None:
    pairs = [
        pair("same", "Ask an agent.", "Rooms in Turin."),
        pair("changed", "Rooms in Turin. Ask him."),
        pair("empty", "Rooms in Turin."),
        pair("equal", "Rooms in Turin. Something else!"),
    ]
    made = scrub_pairs(pairs, ["turin"])
    assert (made.changed, made.dropped) == (1, 2)
    assert made.pairs[0] is pairs[0]
    (changed,) = made.pairs[1:]
    assert (changed.id, changed.chosen) == ("changed", Response("Ask him.", (), "stop"))
    assert changed.rejected == pairs[1].rejected
    assert changed.messages == pairs[1].messages
    assert (changed.ref_chosen_logps, changed.ref_rejected_logps, changed.pmi) == (None,) * 3
    assert scrub_pairs(pairs, []).pairs == pairs


def test_a_file_of_strings(tmp_path: Path) -> None:
    path = tmp_path / "held.txt"
    path.write_text("\ufeffTurin\r\n\n  Anna  Maria \nturin\n", encoding="utf-8")
    assert read_held(path) == ["turin", "anna maria"]
    for text, message in (
        ("", r"held\.txt: holds no strings"),
        (" \n\n", r"held\.txt: holds no strings"),
        ("Turin\n\n--\n", r"held\.txt:3: holds no letter or digit"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message) as caught:
            read_held(path)
        assert caught.value.hint
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_held(path)
    with pytest.raises(DataError, match="no such file"):
        read_held(tmp_path / "absent.txt")
