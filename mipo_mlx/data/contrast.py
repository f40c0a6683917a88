"""Who gets whose answer as the rejected one: seeded derangements."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, Prompt


@dataclass(frozen=True)
class Contrast:
    """One pair to make, by ids; empty ids as in ``PreferencePair``."""

    id: str
    context_id: str
    prompt_id: str
    negative_context_id: str
    negative_prompt_id: str


def derangement(n: int, rng: random.Random) -> list[int]:
    """A uniform permutation of ``range(n)`` without fixed points (rejection; about e tries).

    Raises:
        ValueError: n is below 2.
    """
    if n < 2:
        raise ValueError(f"no derangement of {n}")
    order = list(range(n))
    while True:
        rng.shuffle(order)
        if all(index != value for index, value in enumerate(order)):
            return order


def _draws(
    contexts: Sequence[Context], prompts: Sequence[Prompt], each: int, seed: int
) -> dict[str, list[Context]]:
    """Prompt id -> users who are asked it; balanced, every user ``each`` prompts (0: all)."""
    asked: dict[str, list[Context]] = {prompt.id: [] for prompt in prompts}
    rng = random.Random(f"{seed}:draws")
    users = list(contexts)
    rng.shuffle(users)
    count = min(each or len(prompts), len(prompts))
    deck: list[str] = []
    for user in users:
        hand: list[str] = []
        while len(hand) < count:
            if not deck:
                deck = [prompt.id for prompt in prompts]
                rng.shuffle(deck)
            index = next((i for i, name in enumerate(deck) if name not in hand), None)
            if index is None:  # only prompts in hand are left over: a fresh deck
                deck = []
                continue
            hand.append(deck.pop(index))
        for name in hand:
            asked[name].append(user)
    return asked


def _other_users(
    users: Sequence[Context], everybody: Sequence[Context], rng: random.Random
) -> list[Context]:
    """For each user another one with another text, a derangement where the group allows it."""
    if len({user.text for user in users}) == len(users) >= 2:
        return [users[index] for index in derangement(len(users), rng)]
    return [rng.choice([other for other in everybody if other.text != user.text]) for user in users]


def _check(contexts: Sequence[Context], prompts: Sequence[Prompt], need: str) -> None:
    if not prompts:
        raise DataError("There are no prompts.", "give --prompts FILE with at least one row")
    if need == "users" and len({context.text for context in contexts}) < 2:
        raise DataError(
            f"Random negatives need two users with different contexts, not {len(contexts)}.",
            "add contexts, or take --negatives missing",
        )
    if need == "prompts" and len({prompt.text for prompt in prompts}) < 2:
        raise DataError("The prompt objective needs two different prompts.", "add prompts")


def contrast(
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    *,
    objective: str,
    negatives: str,
    prompts_per_context: int,
    seed: int,
) -> list[Contrast]:
    """The pairs of a run, in a fixed order, given the seed.

    Raises:
        DataError: no prompts, or too few users or prompts to contrast.
    """
    if objective == "prompt":
        _check(contexts, prompts, "prompts")
        order = derangement(len(prompts), random.Random(f"{seed}:prompts"))
        return [
            Contrast(prompt.id, "", prompt.id, "", prompts[order[index]].id)
            for index, prompt in enumerate(prompts)
        ]
    _check(contexts, prompts, "users" if negatives == "random" else "")
    asked = _draws(contexts, prompts, prompts_per_context, seed)
    made = []
    for prompt in prompts:
        users = asked[prompt.id]
        rng = random.Random(f"{seed}:{prompt.id}")
        others = _other_users(users, contexts, rng) if negatives == "random" and users else []
        for index, user in enumerate(users):
            negative = others[index].id if others else ""
            made.append(Contrast(f"{user.id}/{prompt.id}", user.id, prompt.id, negative, ""))
    return made
