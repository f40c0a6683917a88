"""Which facts an answer states, and whose."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Grade:
    """``own``: states a true fact and none of another's. ``wrong``: states another's."""

    own: bool
    wrong: bool


@functools.cache
def _word(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)


def _states(text: str, value: str) -> bool:
    return _word(value).search(text) is not None


def grade(text: str, facts: Mapping[str, str], known: Collection[str]) -> Grade:
    """What a text says of a user, by whole words, ignoring case.

    Args:
        text: an answer.
        facts: the user's, ``attribute -> value``.
        known: values of everybody's facts.
    """
    own = {value.casefold() for value in facts.values()}
    wrong = any(_states(text, value) for value in known if value.casefold() not in own)
    right = any(_states(text, value) for value in facts.values())
    return Grade(own=right and not wrong, wrong=wrong)


def stated(text: str, facts: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """Where a text states a user's facts, as ``grade`` counts them.

    Returns:
        start, end and attribute of each place, in order; of places that overlap the first, and of
        those that start together the longest.
    """
    found = [
        (match.start(), match.end(), name)
        for name, value in facts.items()
        if value
        for match in _word(value).finditer(text)
    ]
    places: list[tuple[int, int, str]] = []
    for start, end, name in sorted(found, key=lambda place: (place[0], -place[1])):
        if not places or start >= places[-1][1]:
            places.append((start, end, name))
    return places
