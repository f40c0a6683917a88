"""The final number of a free answer, exactly; the rules are in ``statements``."""

from __future__ import annotations

import re
from fractions import Fraction

from mipo_mlx.grading.statements import (
    CORRECTION,
    NUMBER_CUE,
    Statement,
    statements,
    tidy,
    unmarked,
)
from mipo_mlx.grading.text import gives_up, sentences

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORD = re.compile(
    rf"(?P<tens>{'|'.join(_TENS)})(?:[-\s](?P<ones>{'|'.join(_UNITS[1:10])}))?\b"
    rf"|(?P<unit>{'|'.join(reversed(_UNITS))})\b(?:\s(?P<scale>hundred|thousand|million)\b)?",
    re.IGNORECASE,
)
MOST_DIGITS = 100
_AND = re.compile(r"[\s-]*(?:and\s+)?")
_SCALES = {"hundred": 2, "thousand": 3, "k": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)%])-)?
    (?:(?:US|CA|AU)?[$€£¥₹]\s?(?P<late>-)?)?
    (?P<digits>(?>(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|(?<![\w.])\.\d+))
    (?:[eE](?P<exponent>[+-]?\d+))?
    (?:\s*[x*]\s*10\^\{?(?P<power>-?\d+)\}?)?
    (?!(?:st|nd|rd|th)\b)
    (?:\s(?P<over>\d+)/(?P<under>\d+)(?![\d/]) | \s?/\s?(?P<divisor>\d+(?:\.\d+)?)(?![\d/]))?
    (?:\s?(?P<scale>hundred|thousand|million|billion|trillion)\b|(?P<k>[kK])\b)?
    """,
    re.VERBOSE,
)
_LEAD = re.compile(
    r"""[\s("'\[{≈~\#:=*$]*(?:(?:therefore|thus|so|about|approximately|approx\.?|around|roughly|exactly
    |simply|just|only|indeed|that|a\ total\ of|equal\ to|also|still|now|x|y|n)\b[\s,:=≈~]*)*
    (?P<minus>(?:minus|negative)\s+|-\s+)?""",
    re.VERBOSE | re.IGNORECASE,
)
_MORE = re.compile(r"[\s)\]]*(?:[-+x*/^:÷\u2013]|to\b|or\b)\s*(?=[-($]*\d)")
_OTHER = re.compile(r"\s*or\s+")
_BOLD = re.compile(r"\*\*([^*\n]{1,40})\*\*|__([^_\n]{1,40})__")


def _value(match: re.Match[str]) -> Fraction | None:
    """The number of a match; None for what divides by zero or runs on without end."""
    if max(len(part or "") for part in match.groups()) > MOST_DIGITS:
        return None
    value = Fraction(match["digits"].replace(",", ""))
    power = int(match["exponent"] or 0) + int(match["power"] or 0)
    if abs(power) > MOST_DIGITS:
        return None
    value *= Fraction(10) ** power
    if match["under"] or match["divisor"]:
        below = Fraction(match["under"] or match["divisor"])
        if not below:
            return None
        value = value + Fraction(match["over"]) / below if match["under"] else value / below
    scale = match["scale"] or match["k"]
    value *= 10 ** _SCALES[scale.lower()] if scale else 1
    return -value if match["sign"] or match["late"] else value


def _numbers(text: str) -> list[Fraction]:
    values = (_value(match) for match in _NUMBER.finditer(text))
    return [value for value in values if value is not None]


def _first(text: str) -> tuple[Fraction | None, str]:
    """The number that a text starts with, a few words aside, and what follows it."""
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    match = _NUMBER.match(text, start)
    value = _value(match) if match else None
    word = None if match else _WORD.match(text, start)
    if word:
        tens = (_TENS.index(word["tens"].lower()) + 2) * 10 if word["tens"] else 0
        ones = word["ones"] or word["unit"]
        value = Fraction(tens + (_UNITS.index(ones.lower()) if ones else 0))
        value *= 10 ** _SCALES[word["scale"].lower()] if word["scale"] else 1
        if _WORD.match(_AND.sub("", text[word.end() :], count=1)):
            return None, ""  # more than this reads
    if value is None:
        return None, ""
    found = match or word
    assert found is not None
    minus = bool(lead and lead["minus"])
    return (-value if minus else value), text[found.end() :]


def _stated_number(said: Statement) -> tuple[bool, Fraction | None]:
    """Whether a statement says anything, and the number that it says."""
    value, rest = _first(said.text)
    if value is not None:
        if said.hash and re.match(r"[.):]\s+\S", rest):  # a heading
            return False, None
        more = _MORE.match(rest)
        if not more:
            return True, value
        if "=" not in said.sentence:
            other = _OTHER.match(rest)
            same = other is not None and _first(rest[other.end() :])[0] == value
            return True, value if same else None
    if said.hash and value is None:
        return False, None
    found = _numbers(said.sentence)
    if "=" in said.sentence and _first(said.sentence.rpartition("=")[2])[0] is not None:
        return True, _first(said.sentence.rpartition("=")[2])[0]
    return bool(found), found[-1] if found else None


def _last_number(text: str) -> Fraction | None:
    """Of the last sentence that has one: in bold, else after "=", else the last."""
    unlisted = re.sub(r"^[ \t]*(?:\d+[.)]|Step \d+[:.])\s+(?=\S)", "", text, flags=re.MULTILINE)
    for source in (unlisted, text):
        for sentence in reversed(sentences(source)):
            bold = [a or b for a, b in _BOLD.findall(sentence)]
            marked = [value for value, _ in map(_first, bold) if value is not None]
            plain = unmarked(sentence)
            aside = re.sub(r"\([^()]*\)", "", plain)
            plain = aside if _numbers(aside) else plain
            found = _numbers(plain)
            if not found:
                continue
            if marked:
                return marked[-1]
            after = _first(plain.rpartition("=")[2])[0] if "=" in plain else None
            return found[-1] if after is None else after
    return None


def final_number(text: str, *, cut_off: bool = False) -> Fraction | None:
    """The number that an answer comes to; None where it says none.

    Args:
        text: the answer.
        cut_off: it ended for its length.
    """
    plain = tidy(text)
    last: tuple[Fraction | None, str] | None = None
    for said in statements(unmarked(plain), NUMBER_CUE):
        speaks, value = _stated_number(said)
        if speaks and (said.whole or not cut_off):
            last = value, said.after
    if cut_off:
        return last[0] if last else None
    if last:
        again = CORRECTION.search(last[1])
        changed = _last_number(last[1][again.end() :]) if again else None
        return last[0] if changed is None else changed
    return None if gives_up(plain) else _last_number(plain)


def spell(value: Fraction) -> str:
    """A number as its shortest exact text: ``-3``, ``0.5``, ``1/3``."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest > 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
