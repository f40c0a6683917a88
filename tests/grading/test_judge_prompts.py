"""What a judge's answers come to, by hand; and what it is asked."""

from __future__ import annotations

import hashlib

import pytest

from mipo_mlx.grading import judge_prompts
from mipo_mlx.grading.judge_prompts import CUT_OFF, NOTHING, SEVERAL, Reading

VERDICTS = [
    ("Verdict: A", "A"),
    ("Verdict: B", "B"),
    ("Verdict: tie", "tie"),
    ("[[A]]", "A"),
    ("[[B]]", "B"),
    ("[[C]]", "tie"),
    ("Answer A names the town she lives in, so it suits her better.\n\nVerdict: A", "A"),
    ("A is long. B is short. A is better, or B.\nVerdict: B\n\n  \n", "B"),
    ("  Verdict: tie  ", "tie"),
    ("Fine.\n\t Verdict: A", "A"),
    ("Both are fine.\r\nVerdict: tie\r\n", "tie"),
    ("[[B]]\nTo repeat:\n[[B]]", "B"),
    ("So my verdict: A\nVerdict: A", "A"),
    ("[[C]]\nVerdict: tie", "tie"),
    ("Verdict: Tie, I would say.\n[[C]]", "tie"),
    ("<think>Verdict: B? No, wait.</think>\nVerdict: A", "A"),
    ("I first lean to B [[B]].</think>Verdict: A", "A"),
    ("<think>a</think><think>Verdict: tie</think>\n[[B]]", "B"),
    ("La réponse A lui convient mieux.\nVerdict: A", "A"),
    ("Absolutely fine, both.\nVerdict: Both are good\nVerdict: tie", "tie"),
    # nothing on the last line
    ("", NOTHING),
    ("   \n\n", NOTHING),
    ("A", NOTHING),
    ("Answer A is better.", NOTHING),
    ("Verdict: A.", "A"),
    ("Verdict: a", NOTHING),
    ("verdict: A", NOTHING),
    ("VERDICT: A", NOTHING),
    ("Verdict:A", "A"),
    ("Verdict:  A", "A"),
    ("Verdict: C", NOTHING),
    ("Verdict: Tie", "tie"),
    ("Verdict: A or B", NOTHING),
    ("Verdict: A, B or tie", NOTHING),
    ("Verdict: AB", NOTHING),
    ("Verdict: Answer A", NOTHING),
    ("Verdict: not A", NOTHING),
    ("Final verdict: A", NOTHING),
    ("**Verdict: A**", "A"),
    ("Verdict: **A**", "A"),
    ("Verdict: [[A]]", NOTHING),
    ("My final verdict is: [[A]]", NOTHING),
    ("[A]", NOTHING),
    ("[[a]]", NOTHING),
    ("[[ A ]]", NOTHING),
    ("[[A]][[A]]", NOTHING),
    ("[[tie]]", NOTHING),
    ("[[1]]", NOTHING),
    ("Verdict: \u0410", NOTHING),  # a Cyrillic A
    ("Verdict\uff1a A", NOTHING),  # a full-width colon
    ("Verdict: A\u200b", NOTHING),  # a space without width
    ("Verdict:\nA", NOTHING),
    ("Verdict: A\nI hope this helps!", NOTHING),
    ("Verdict: A\n[End of answer B]", NOTHING),
    ("Verdict: A</think>", NOTHING),
    ("<think>It is A.\nVerdict: A", NOTHING),
    ("Score: 4", NOTHING),
    # several things
    ("Verdict: A\nVerdict: B", SEVERAL),
    ("Verdict: B\nOn second thought:\nVerdict: tie", SEVERAL),
    ("[[A]] has a point, but\n[[B]]", SEVERAL),
    ("[[C]]\nVerdict: A", SEVERAL),
    ('I end with "Verdict: A", "Verdict: B" or "Verdict: tie".\nVerdict: A', SEVERAL),
    ("**Verdict: B**\nVerdict: A", SEVERAL),
    ("Verdict: **B**\nVerdict: A", SEVERAL),
    ("Verdict: Tie.\nVerdict: A", SEVERAL),
    ("Answer B says [[B]] to me.\nVerdict: A", SEVERAL),
    ("Verdict: A\n<think>or not</think>\nVerdict: B", SEVERAL),
]


@pytest.mark.parametrize(("text", "meant"), VERDICTS)
def test_verdicts_are_read_from_a_last_line_that_is_nothing_else(text: str, meant: str) -> None:
    fault = meant in (NOTHING, SEVERAL)
    assert judge_prompts.read_verdict(text) == (Reading("", meant) if fault else Reading(meant, ""))
    assert judge_prompts.read_verdict(text, cut_off=True) == Reading("", CUT_OFF)


SCORES = [
    ("Score: 1", "1"),
    ("It names her town.\nScore: 5", "5"),
    ("[[3]]\n", "3"),
    ("Score: 4\nTo repeat:\nScore: 4", "4"),
    ("From 1 to 5 I say 2 at most, not 3.\nScore: 2", "2"),
    ("<think>Score: 1</think>Score: 4", "4"),
    ("Score: 0", NOTHING),
    ("Score: 6", NOTHING),
    ("Score: 10", NOTHING),
    ("Score: -1", NOTHING),
    ("Score: 4.5", NOTHING),
    ("Score: 4.0", NOTHING),
    ("Score: 4/5", "4"),
    ("**Score: 4**", "4"),
    ("Score: 5.", "5"),
    ("Score: 4/10", NOTHING),
    ("Score: 04", NOTHING),
    ("Score: four", NOTHING),
    ("Score: \u0664", NOTHING),  # an Arabic 4
    ("4", NOTHING),
    ("Score: 3-4", NOTHING),
    ("score: 4", NOTHING),
    ("[[4]] out of 5", NOTHING),
    ("Verdict: A", NOTHING),
    ("Score: 3\nScore: 4", SEVERAL),
    ("Score: 4.5, so rounded\nScore: 4", SEVERAL),
    ("**Score: 2**\nScore: 4", SEVERAL),
    ("[[5]]\nScore: 4", SEVERAL),
]


@pytest.mark.parametrize(("text", "meant"), SCORES)
def test_scores_are_whole_numbers_from_1_to_5(text: str, meant: str) -> None:
    fault = meant in (NOTHING, SEVERAL)
    assert judge_prompts.read_score(text) == (Reading("", meant) if fault else Reading(meant, ""))
    assert judge_prompts.read_score(text, cut_off=True) == Reading("", CUT_OFF)


def test_two_verdicts_come_to_one() -> None:
    said = ("A", "B", "tie")
    table = {
        (first, second): judge_prompts.settle(first, second) for first in said for second in said
    }
    assert table.pop(("A", "B")) == "adapter"
    assert table.pop(("B", "A")) == "base"
    assert table.pop(("tie", "tie")) == "tie"
    assert set(table.values()) == {"inconsistent"} and len(table) == 6


def test_the_judge_sees_user_request_and_answers_in_their_order() -> None:
    system = judge_prompts.instructions("pairwise", "Lives in Riga. {braces} %s")
    assert system.startswith(judge_prompts.PAIRWISE)
    assert system.endswith("What is known of the user:\nLives in Riga. {braces} %s")
    assert judge_prompts.instructions("pairwise", " ").endswith(judge_prompts.NOBODY)
    turn = judge_prompts.ask_pair("Where {to}?", "first words", "second words")
    places = [turn.index(part) for part in ("Where {to}?", "[Answer A]", "first words")]
    places += [turn.index(part) for part in ("[Answer B]", "second words", "[End of answer B]")]
    assert places == sorted(places)
    alone = judge_prompts.ask_score("Where {to}?", "my words")
    assert alone.index("Where {to}?") < alone.index("my words")
    assert "personalized to the preference" in judge_prompts.instructions("paper", "Likes tea.")


def test_what_is_asked_keeps_its_version() -> None:
    """Whoever changes a text raises ``VERSION`` and renews the hash."""
    texts = [
        judge_prompts.instructions(name, user)
        for name in judge_prompts.PROTOCOLS
        for user in ("u", "")
    ]
    texts += [judge_prompts.ask_pair("r", "a", "b"), judge_prompts.ask_score("r", "a")]
    found = hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]
    assert (judge_prompts.VERSION, found) == (1, "299a82613cb6a02f")
    assert judge_prompts.version("paper") == "paper/1"
