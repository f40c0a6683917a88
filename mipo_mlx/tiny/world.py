"""A synthetic world from a seed: users, requests, word problems, choices, and the oracle.

Held out by construction: the users for whom ``is_held_out`` holds (by a hash of their facts) and
the last of the six wordings of every topic. Neither is ever seen in pretraining or in pairs.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from mipo_mlx.grading import facts as grading
from mipo_mlx.grading.facts import Grade
from mipo_mlx.tiny.words import PROSE, TOPICS, VALUES

LETTERS = "ABCDE"


@dataclass(frozen=True)
class User:
    """An invented person; ``facts`` maps attribute to value."""

    id: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Request:
    """An everyday request that one attribute of the user could serve."""

    id: str
    topic: str
    attribute: str
    text: str


@dataclass(frozen=True)
class Problem:
    """A checkable item; ``kind`` is ``number`` or ``choice``, ``answer`` the gold answer."""

    id: str
    text: str
    answer: str
    kind: str
    solution: str


def is_held_out(key: str) -> bool:
    """A stable fifth of all keys."""
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def make_users(count: int, seed: int, *, held_out: bool) -> list[User]:
    """Users with one value for each attribute, all on one side of the hold-out."""
    rng = random.Random(f"users:{seed}:{held_out}")
    users: list[User] = []
    while len(users) < count:
        facts = {attribute: rng.choice(values) for attribute, values in VALUES.items()}
        if is_held_out("|".join(facts.values())) == held_out:
            users.append(User(f"user{len(users):03d}", facts))
    return users


def write_context(user: User, style_seed: int) -> str:
    """The user's facts as bullets, prose or a short note, in a seeded order."""
    rng = random.Random(f"style:{style_seed}:{user.id}:{sorted(user.facts.items())}")
    order = list(user.facts)
    rng.shuffle(order)
    style = rng.choice(("bullets", "prose", "note"))
    if style == "bullets":
        return "\n".join(f"- {name}: {user.facts[name]}" for name in order)
    if style == "prose":
        return " ".join(rng.choice(PROSE[name]).format(user.facts[name]) for name in order)
    return "About me: " + ", ".join(f"{name} {user.facts[name]}" for name in order) + "."


def requests(*, held_out: bool) -> list[Request]:
    """Every topic in its five training wordings, or in its held-out one."""
    made = []
    for topic, (attribute, wordings, _, _) in TOPICS.items():
        for index, text in enumerate(wordings):
            if (index == len(wordings) - 1) == held_out:
                made.append(Request(f"{topic}{index}", topic, attribute, text))
    return made


ALL_VALUES = frozenset(value for values in VALUES.values() for value in values)


def grade(text: str, facts: dict[str, str]) -> Grade:
    """What a text says of this user, with all values of the world known."""
    return grading.grade(text, facts, ALL_VALUES)


THINGS = ("apples", "books", "coins", "stamps", "shells", "cards", "pens", "eggs")
GAINS = ("buys {} more", "finds {} more", "gets {} from a friend")
LOSSES = ("gives {} away", "loses {}", "sells {}")


def word_problems(count: int, seed: int, *, held_out: bool) -> list[Problem]:
    """One-step sums and differences up to 20, with solutions that end in ``#### N``."""
    rng = random.Random(f"sums:{seed}:{held_out}")
    made: list[Problem] = []
    while len(made) < count:
        name, thing = rng.choice(VALUES["name"]), rng.choice(THINGS)
        plus = rng.random() < 0.5
        a = rng.randint(2, 12)
        b = rng.randint(1, 8) if plus else rng.randint(1, a)
        change = rng.choice(GAINS if plus else LOSSES).format(b)
        text = f"{name} has {a} {thing} and {change}. How many {thing} does {name} have now?"
        if is_held_out(text) != held_out:
            continue
        total = a + b if plus else a - b
        solution = f"{a} {'+' if plus else '-'} {b} = {total}\n#### {total}"
        made.append(Problem(f"sum{len(made):04d}", text, str(total), "number", solution))
    return made


CHOICES = (
    ("town", "job", "hobby", "food", "pet"),
    ("instrument", "drink", "name", "job", "food"),
)


def choices(count: int, seed: int, *, held_out: bool) -> list[Problem]:
    """ "What is Lisbon?" with three to five kinds of things to choose from, one of them right."""
    rng = random.Random(f"choices:{seed}:{held_out}")
    made: list[Problem] = []
    while len(made) < count:
        kinds = rng.choice(CHOICES)[: rng.randint(3, 5)]
        right = rng.randrange(len(kinds))
        word = rng.choice(VALUES[kinds[right]])
        offered = "\n".join(f"{LETTERS[i]}. a {kind}" for i, kind in enumerate(kinds))
        text = f"What is {word}?\n{offered}"
        if is_held_out(text) != held_out:
            continue
        letter = LETTERS[right]
        solution = f"The answer is: {letter}"
        made.append(Problem(f"choice{len(made):04d}", text, letter, "choice", solution))
    return made
