"""What a free answer states as its final number or choice, read as a person would.

The rules of ``final_number`` and ``final_choice``:

The last statement wins. A statement is ``#### N``, ``\\boxed{N}``, or "(final) answer/result is",
"answer:", and for choices also "I choose", "C is correct" and the like.

* After "is" or ":" stands the value: "5 apples for 3 people" is 5, "3 + 4 = 7" is 7; else it is the
  last number of the sentence. "5 or 6", "A and C", a range or an unfinished sum say nothing.
* A statement without a value, or of what the answer is *not*, is none. After "Wait", "Actually",
  "Sorry" or "No," what follows the last statement is read.
* Without a statement: for numbers the last sentence that has one, there the bold one, else the one
  after the last "=", else the last. For choices a label that opens or closes the text, "option C"
  or "(C)" in the last sentence, or the one choice whose text it holds. A refusal says nothing.
* An answer that was cut off counts only with a whole statement, for ``12`` may be ``120``'s start.
* Commas between thousands, signs, currencies, percent signs, units, bold, LaTeX, thoughts in
  ``<think>`` and further questions that a model asks itself are seen through. 25% is 25; 1/2 is
  0.5; numbers are compared exactly, so 0.33 is not 1/3.
* Only labels that were offered count. A label wins over a choice whose text looks like one.

Not covered: commas as decimal marks; number words beyond ninety-nine; sums that are left undone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mipo_mlx.grading.text import spoken

# From Markdown and LaTeX to plain text; a box stands between \x02 and \x03.

_LATEX = (
    (r"\\(?:text|textbf|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\{,\}", ","),
    (r"\\[!,;: ]", ""),
    (r"\\([$%&#])", r"\1"),
    (r"\\(?:times|cdot)\b|\u00d7", "x"),
    (r"\\(?:approx|sim)\b", "≈"),
    (r"\^\{?\\circ\}?", "°"),
    (r"(?<=[A-Za-z])\^\{?\d\}?", ""),  # of a unit
    (r"(?<=\d)\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}", r" \1/\2"),
    (r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2"),
    (r"\\f?boxed\s*\{([^{}]*)\}", "\x02\\1\x03"),
    (r"\\f?boxed\s*(\w)", "\x02\\1\x03"),
    (r"\\[()\[\]]", " "),
    (r"\$\s*(\w)\s*\$", r"\1"),
    ("\N{MINUS SIGN}", "-"),
    ("(?<![\\w\\s])\N{EN DASH}(?=[$\\d])|(?<=\\s)\N{EN DASH}(?=[$\\d])", "-"),
    (r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))", ""),
    (r"[\u00a0\u202f\u2009]", " "),
    ("[\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]", "'"),
)
_NEXT_QUESTION = re.compile(
    r"^\W{0,9}(?:new question|question|q)\s*\d*:", re.IGNORECASE | re.MULTILINE
)


def tidy(text: str) -> str:
    """Without thoughts, LaTeX and further questions; bold stays."""
    text = spoken(text)[0].strip()
    for pattern, plain in _LATEX:
        text = re.sub(pattern, plain, text)
    for match in _NEXT_QUESTION.finditer(text):
        if match.start():
            return text[: match.start()]
    return text


def unmarked(text: str) -> str:
    """Without bold, italics and code."""
    marks = r"\*\*|__|`|(?<!\d)\*(?!\s)|\*(?![\d\s])|(?<!\w)_(?=\w)|(?<=\w)_(?!\w)"
    return re.sub(marks, "", text)


_NOUN = r"\b(?:answer|result|solution)\b"
_CUE = (
    rf"(?P<hash>\#{{4}})|(?P<box>\x02)|{_NOUN}(?:\s+(?:to|for|of)\s+[^.\n:=]{{0,60}}?)?"
    r"(?:\s*[:=]|\s*\n|\s+(?:is|was|equals|of|would\ be|should\ be|must\ be)\b(?!\s+not\b))"
)
NUMBER_CUE = re.compile(_CUE, re.IGNORECASE)
CHOICE_CUE = re.compile(
    rf"{_CUE}|\b(?:choice|option)\s*(?::|is\b(?!\s+not\b))"
    r"|\b(?:correct|best|right)\s+(?:one|statement)\s*(?::|is\b(?!\s+not\b))"
    r"|\b(?:I|we|I'd|I'll)\s+(?:(?:would|will|must)\s+)?(?:choose|select|pick|go\ with|say)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
CORRECTION = re.compile(
    r"(?:^|[.!?\n])\W{0,9}(?:(?:wait|actually|correction|sorry|oops)\b|no,)", re.IGNORECASE
)

LONGEST = 1000  # characters of a statement that are read


@dataclass(frozen=True)
class Statement:
    """What stands after a cue.

    Attributes:
        text: what follows, at most ``LONGEST`` characters.
        sentence: its first sentence, or what is in the box.
        whole: more follows than that, so it is no torso even where the answer was cut off.
        hash: the cue was ``####``.
        after: the text after the sentence.
    """

    text: str
    sentence: str
    whole: bool
    hash: bool
    after: str


def statements(text: str, cue: re.Pattern[str]) -> Iterator[Statement]:
    """What follows each cue, in order."""
    for match in cue.finditer(text):
        rest = text[match.end() :].lstrip(" \t\n:=")
        if match["box"]:
            inside, _, after = rest.partition("\x03")
            inside = inside[:LONGEST]
            yield Statement(inside, inside, True, False, after)
            continue
        end = _SENTENCE_END.search(rest[:LONGEST])
        cut = end.start() if end else len(rest)
        after = rest[cut:]
        whole = "\n" in after or bool(after.strip(" .!?\x03"))
        told = rest[:LONGEST]
        yield Statement(told, told[:cut], whole, match["hash"] is not None, after)
