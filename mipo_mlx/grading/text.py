"""Answers as text: normal form, sentences, thoughts, refusals; each in one way for all who ask."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

_SAME = str.maketrans("\u2018\u2019\u02bc\u2010\u2011", "'''--")
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]*_]*\s+|(?<=[\u3002\uff01\uff1f])|\n+"
)
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_APOLOGY = r"\W*(?:i['\u2019]?m sorry|i am sorry|sorry|unfortunately|i apologi[sz]e)?\W*(?:but )?"
_DECLINES = (
    r"(?:i (?:can(?:no|['\u2019])t|can not|am not able to|am unable to|won['\u2019]t)"
    r" (?:help|assist|do|answer|provide|comply|share)|as an ai\b)"
)
_OPENS_DECLINING = re.compile(_APOLOGY + _DECLINES, re.IGNORECASE)
_UNDECIDED = re.compile(
    rf"\b(?:{_DECLINES}|I(?:'m| am) (?:sorry,? but|unable|not (?:able|sure))"
    r"|I (?:cannot|can't|can not|don't know)"
    r"|(?:cannot|can't|can not|could not|impossible to) (?:be )?(?:determine|answer|solve)"
    r"|(?:not enough|insufficient) (?:information|data))",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """NFKC, caseless, nothing invisible, apostrophes and hyphens plain, spaces single."""
    for _ in range(2):  # folding case can undo the form
        text = unicodedata.normalize("NFKC", text).casefold()
    seen = "".join(c for c in text.translate(_SAME) if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", seen).split())


def sentences(text: str) -> list[str]:
    """Sentences and lines with the space after them; joined they are the text."""
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def strip_thinking(text: str) -> str:
    """The text without its whole ``<think>`` blocks; a block without end or start stays."""
    return _THOUGHT.sub("", text)


def spoken(text: str) -> tuple[str, bool]:
    """What a model said aloud, and whether it was still thinking at the end.

    A thought without a start counts from the beginning, for some templates open it in the prompt.
    """
    said, unended, _ = strip_thinking(text).rpartition("</think>")[2].partition("<think>")
    return said, bool(unended)


def declines(text: str) -> bool:
    """Whether an answer opens as English refusals to help do."""
    return _OPENS_DECLINING.match(text) is not None


def gives_up(text: str) -> bool:
    """Whether an answer says somewhere, in English, that it cannot answer."""
    return _UNDECIDED.search(text) is not None
