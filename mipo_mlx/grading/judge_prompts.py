"""What a judge is asked, versioned, since verdicts depend on it, and how its answers are read.

* ``pairwise``: which of two answers suits this user better, A, B or tie.
* ``paper``: how well one answer is personalized to what the user prefers, 1 to 5. The scale is that
  of arXiv 2603.19294; the words around it are ours, for the authors' own are not known.

A verdict is read from the last line alone, which must be nothing but the verdict, bold or not. Not
covered: answers that talk to the judge.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple

from mipo_mlx.grading.text import spoken

PROTOCOLS = ("pairwise", "paper")
VERSION = 1  # raise it with any change of a text below, or of how answers are read

PAIRWISE = """\
You compare two answers to a request and say which of them suits this one user better. Weigh what \
the user asked, and what is known of the user below. An answer is not better because it is longer, \
because it stands first, or because it repeats what is known of the user without need. Explain \
yourself in a few sentences. Then end with a last line that is exactly one of these three:
Verdict: A
Verdict: B
Verdict: tie"""

PAPER = """\
You score one answer to a request from 1 to 5 for how well it is personalized to the preference \
that the user states below: 1 is not personalized at all, 5 is personalized perfectly. Explain \
yourself in a few sentences. Then end with a last line of the form "Score: N", where N is 1, 2, 3, \
4 or 5."""

NOBODY = "Nothing is known of the user."

_VERDICT = re.compile(r"Verdict: *(A|B|[Tt]ie)\.?|\[\[(A|B|C)\]\]\.?")
_SCORE = re.compile(r"Score: *([1-5])(?:/5)?\.?|\[\[([1-5])\]\]\.?")
# what counts against a last line that says something else; wider than what is accepted
_VERDICTS = re.compile(r"[Vv]erdict:[\s*]*(A|B|[Tt]ie)(?!\w)|\[\[(A|B|C)\]\]")
_SCORES = re.compile(r"[Ss]core:[\s*]*(\d+(?:\.\d+)?)|\[\[(\d+(?:\.\d+)?)\]\]")

CUT_OFF = "cut off"
TOO_LONG = "longer than the judge's window"
SEVERAL = "says several things"
NOTHING = "no verdict on the last line"


class Reading(NamedTuple):
    """``value`` of a judge's answer (``A``, ``B``, ``tie`` or ``1`` to ``5``), or else a ``fault``.

    One of the two is "".
    """

    value: str
    fault: str


def version(protocol: str) -> str:
    """What verdicts are kept under: ``pairwise/1``."""
    return f"{protocol}/{VERSION}"


def instructions(protocol: str, user: str) -> str:
    """The judge's system message, in one of ``PROTOCOLS``; ``user`` is all that is known, or ""."""
    task = {"pairwise": PAIRWISE, "paper": PAPER}[protocol]
    known = f"What is known of the user:\n{user}" if user.strip() else NOBODY
    return f"{task}\n\n{known}"


def ask_pair(request: str, first: str, second: str) -> str:
    """The judge's user turn of ``pairwise``; ``first`` is answer A."""
    return (
        f"The request:\n{request}\n\n[Answer A]\n{first}\n[End of answer A]\n\n"
        f"[Answer B]\n{second}\n[End of answer B]\n\n"
        "Which answer suits this user better? End with the line of your verdict."
    )


def ask_score(request: str, answer: str) -> str:
    """The judge's user turn of ``paper``."""
    return (
        f"The request:\n{request}\n\n[Answer]\n{answer}\n[End of answer]\n\n"
        "How well is it personalized to this user? End with the line of your score."
    )


def duel_id(
    context_id: str, prompt_id: str, context: str, prompt: str, base: str, adapter: str
) -> str:
    """A hash of all that a judge or a voter is shown of a duel."""
    shown = json.dumps([context_id, prompt_id, context, prompt, base, adapter])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _read(text: str, cut_off: bool, form: re.Pattern[str], any_form: re.Pattern[str]) -> Reading:
    if cut_off:
        return Reading("", CUT_OFF)
    said, thinking = spoken(text)
    if thinking or not said.strip():
        return Reading("", NOTHING)
    line = re.sub(r"[*_`]", "", said.strip().splitlines()[-1])  # bold, italics, code
    last = form.fullmatch(line.strip())
    if last is None:
        return Reading("", NOTHING)
    verdicts = {_name(one) for one in any_form.finditer(said)}
    value = _name(last)
    return Reading(value, "") if verdicts == {value} else Reading("", SEVERAL)


def _name(found: re.Match[str]) -> str:
    name = found.group(1) or found.group(2)
    return "tie" if name in ("C", "Tie") else name


def read_verdict(text: str, *, cut_off: bool = False) -> Reading:
    """``A``, ``B`` or ``tie``, where the last line is ``Verdict: A`` or ``[[A]]``; C is a tie.

    Forgiven are spaces, marks of bold, italics and code, a full stop, and "Tie". It fails where
    the answer was cut off, where the line holds anything else, and where another verdict stands
    anywhere before it.
    """
    return _read(text, cut_off, _VERDICT, _VERDICTS)


def read_score(text: str, *, cut_off: bool = False) -> Reading:
    """``1`` to ``5``, where the last line is ``Score: 4``, ``4/5`` or ``[[4]]``; as strict."""
    return _read(text, cut_off, _SCORE, _SCORES)


def settle(adapter_first: str, base_first: str) -> str:
    """What two verdicts on one duel come to: ``adapter``, ``base``, ``tie`` or ``inconsistent``.

    Args:
        adapter_first: ``A``, ``B`` or ``tie``, where the adapter's answer was A.
        base_first: likewise, where the base's answer was A.
    """
    winners = (
        {"A": "adapter", "B": "base"}.get(adapter_first, "tie"),
        {"A": "base", "B": "adapter"}.get(base_first, "tie"),
    )
    return winners[0] if winners[0] == winners[1] else "inconsistent"
