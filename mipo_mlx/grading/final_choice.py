"""The final choice of a free answer; the rules are in ``statements``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mipo_mlx.grading.statements import (
    CHOICE_CUE,
    CORRECTION,
    LONGEST,
    Statement,
    statements,
    tidy,
    unmarked,
)
from mipo_mlx.grading.text import gives_up, sentences

Choices = Sequence[tuple[str, str]]
_LEAD = r"""[\s("'\[{\#:=$-]*(?:(?:therefore|thus|so|clearly|definitely|probably|likely|simply|just
    |only|most\ likely|option|choice|letter|number|answer|statement|is|be|either|both)\b[\s:=]*)*
    [(\["'\s]*"""
_REASON = r"(?:because|since|as|is|with|for|which|due|not|but|in|if|and|or)"
_NO_MORE = r"(?!\w|[%/]\s?\w|[.,]\d|'\w|-\w)"  # a label is no part of a longer word


class _Reader:
    """What answers to one problem say of its choices."""

    def __init__(self, choices: Choices) -> None:
        self.labels = [label for label, _ in choices]
        self.texts: dict[str, str] = {}
        seen = [_words(text) for _, text in choices]
        for (label, _), words in zip(choices, seen, strict=True):
            if words and seen.count(words) == 1:
                self.texts[words] = label
        one = "|".join(map(re.escape, sorted(self.labels, key=len, reverse=True)))
        self.one = rf"(?<![\w.$])(?:{one}){_NO_MORE}"
        small = rf"(?:{one.lower()})(?=\s*[)\].:]|\s*$)"  # else "a" is an article
        self.led = re.compile(
            rf"(?i:{_LEAD})(?P<label>{self.one}|{small})(?P<rest>.*)", re.X | re.S
        )
        self.hedge = re.compile(
            rf"[\s)\].]*(?:,|and|or|&|/)(?:\s|,|and|or|option|\()*(?:{self.one})"
        )
        self.denied = re.compile(
            rf"(?i:not|nor|neither|than|instead of|over)\s+(?i:option\s+)?\(?{self.one}\)?"
        )
        self.named = re.compile(
            rf"(?i:\b(?:option|choice|letter)\s+)\(?(?P<a>{self.one}|{small})|\((?P<b>{self.one})\)"
            rf"|(?i:\b(?:so|thus|therefore|hence|be|is|it's)|[:=→])\W{{0,3}}(?P<c>{self.one})\W*$"
        )
        self.praised = re.compile(
            rf"\(?(?P<label>{self.one})\)?(?:[.:)]\s[^.\n]{{0,80}}?)?\s+(?:is|seems|must be)\s+"
            r"(?:(?:the|most|likely|probably|only)\s+)*(?:correct|right|best|answer)\b"
        )

    def _loose(self, label: str, rest: str) -> bool:
        """Whether a word follows that may make the label an article or the start of a text."""
        return bool(re.match(r"\s+\w", rest)) and not re.match(rf"\s+{_REASON}\b", rest)

    def _by_text(self, text: str) -> str | None:
        """The choice whose text stands at the start, the longest of them."""
        words = _words(text)
        found = [known for known in self.texts if f"{words} ".startswith(f"{known} ")]
        return self.texts[max(found, key=len)] if found else None

    def _held(self, text: str) -> str | None:
        """The one choice whose text the sentence holds."""
        words = f" {_words(text)} "
        for known in self.texts:
            words = re.sub(rf" (?:not|nor|than|of) (?:an? |the )?{re.escape(known)} ", " ", words)
        found = [known for known in self.texts if f" {known} " in words]
        longest = [a for a in found if not any(a != b and f" {a} " in f" {b} " for b in found)]
        return self.texts[longest[0]] if len(longest) == 1 else None

    def at_start(self, text: str) -> tuple[bool, str | None]:
        """Whether a text starts with a choice, and which; several are none."""
        match = self.led.match(text)
        label, rest = (match["label"].upper(), match["rest"]) if match else ("", "")
        if match and not self._loose(label, rest):
            return True, None if self.hedge.match(rest) else label
        if (told := self._by_text(text)) is not None:
            return True, told
        if match and (label != "A" or not re.match(r"\s+[a-z]", rest) or self.hedge.match(rest)):
            return True, None if self.hedge.match(rest) else label
        return False, None

    def stated(self, said: Statement) -> tuple[bool, str | None]:
        """Whether a statement says anything, and which choice."""
        speaks, label = self.at_start(said.text)
        if speaks or said.hash:
            return speaks, label
        sentence = self.denied.sub(" ", said.sentence)
        pattern = self.named if self.labels[0].isdigit() else re.compile(rf"(?P<a>{self.one})")
        found = {label for match in pattern.finditer(sentence) for label in match.groups() if label}
        if "A" in found and not re.search(r"\bA\b(?!\s+[a-z])", sentence):
            found.discard("A")  # an article
        if found:
            return True, found.pop().upper() if len(found) == 1 else None
        held = self._held(sentence)
        return held is not None, held

    def unstated(self, text: str) -> str | None:
        """The choice of an answer without a statement."""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not lines:
            return None
        led = [line for line in lines if re.match(rf"\W*(?:{self.one})\s*(?:[).:\]]|$)", line)]
        for line in (lines[0], lines[-1]):
            alone = re.fullmatch(rf"\W*(?P<label>{self.one}|(?i:{'|'.join(self.labels)}))\W*", line)
            if alone:
                return alone["label"].upper()
        if led == [lines[0]] or re.match(rf"\W*(?:{self.one})\s+(?:because|since|as)\b", lines[0]):
            return self.at_start(lines[0][:LONGEST])[1]
        last = self.denied.sub(" ", sentences(text)[-1])
        found = {label for match in self.named.finditer(last) for label in match.groups() if label}
        if found:
            return found.pop().upper() if len(found) == 1 else None
        refused = gives_up(text) and not any(map(gives_up, self.texts))
        return None if refused else self._by_text(last) or self._held(last)


def _words(text: str) -> str:
    """Words of a text, in small letters, without marks and a leading article."""
    words = re.sub(r"[^\w%+/-]+", " ", text.casefold()).strip(" -")
    return re.sub(r"^(?:the|an?|that|it is|they|by|to)\s+(?=\S)", "", words)


def final_choice(text: str, choices: Choices, *, cut_off: bool = False) -> str | None:
    """The label that an answer settles on; None where it settles on none that was offered.

    Args:
        text: the answer.
        choices: ``(label, text)`` of each choice; a text may be empty.
        cut_off: it ended for its length.
    """
    reader = _Reader(choices)
    plain = unmarked(tidy(text))
    last: tuple[str | None, str] | None = None
    for said in statements(plain, CHOICE_CUE):
        speaks, label = reader.stated(said)
        if speaks and (said.whole or not cut_off):
            last = label, said.after
    for match in reader.praised.finditer(plain):
        if last is None or match.start() > len(plain) - len(last[1]):
            last = match["label"], plain[match.end() :]
    if cut_off:
        return last[0] if last else None
    if last is None:
        return reader.unstated(plain)
    again = CORRECTION.search(last[1])
    changed = reader.unstated(last[1][again.end() :].lstrip(" ,.")) if again else None
    return last[0] if changed is None else changed
