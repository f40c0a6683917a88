"""Who gets whose answer as the rejected one: seeded derangements."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, Prompt


@dataclass(frozen=True)
class Contrast:
    """One pair to make, by ids; empty ids as in ``PreferencePair``.

    ``sample`` tells apart several answers to the same prompt, from 0; both sides have the same.
    """

    id: str
    context_id: str
    prompt_id: str
    negative_context_id: str
    negative_prompt_id: str
    sample: int = 0


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
    """Prompt id -> users who are asked it; balanced, every user ``each`` prompts (0: all).

    A user's own prompts come first; those that belong to nobody fill up.
    """
    asked: dict[str, list[Context]] = {prompt.id: [] for prompt in prompts}
    mine: dict[str, list[str]] = {}
    for prompt in prompts:
        mine.setdefault(prompt.context_id, []).append(prompt.id)
    shared = mine.pop("", [])
    rng = random.Random(f"{seed}:draws")
    users = list(contexts)
    rng.shuffle(users)
    deck: list[str] = []
    for user in users:
        hand = [id for name in dict.fromkeys((user.id, user.owner)) for id in mine.get(name, ())]
        rng.shuffle(hand)
        del hand[each or len(hand) :]
        count = min(each or len(shared) + len(hand), len(shared) + len(hand))
        while len(hand) < count:
            if not deck:
                deck = list(shared)
                rng.shuffle(deck)
            index = next((i for i, name in enumerate(deck) if name not in hand), None)
            if index is None:  # only prompts in hand are left over: a fresh deck
                deck = []
                continue
            hand.append(deck.pop(index))
        for name in hand:
            asked[name].append(user)
    return asked


def _others(
    users: Sequence[Context], everybody: Sequence[Context], count: int, rng: random.Random
) -> list[list[Context]]:
    """For each context ``count`` of different other users, of its language, with other texts."""
    rows: dict[int, list[Context]] = {}
    for language in dict.fromkeys(user.language for user in users):
        places = [place for place, user in enumerate(users) if user.language == language]
        mine = [users[place] for place in places]
        peers = [user for user in everybody if user.language == language]
        rows.update(zip(places, _others_among(mine, peers, count, rng), strict=True))
    return [rows[place] for place in range(len(users))]


def _others_among(
    users: Sequence[Context], everybody: Sequence[Context], count: int, rng: random.Random
) -> list[list[Context]]:
    """``_others`` of one language.

    Within the group that is asked the same prompt, every user serves equally often where texts
    differ and the group is large enough: one derangement, or shifts of one random order.
    """
    texts = {context.text: context for context in everybody}  # one user a text
    different = min(len({user.text for user in users}), len({user.owner for user in users}))
    if different == len(users) > count:
        if count == 1:
            return [[users[index]] for index in derangement(len(users), rng)]
        order = list(range(len(users)))
        rng.shuffle(order)
        place = {index: spot for spot, index in enumerate(order)}
        shifts = rng.sample(range(1, len(users)), count)
        return [
            [users[order[(place[index] + shift) % len(users)]] for shift in shifts]
            for index in range(len(users))
        ]
    rows = []
    for user in users:
        theirs: dict[str, list[Context]] = {}
        for text, other in texts.items():
            if text != user.text and other.owner != user.owner:
                theirs.setdefault(other.owner, []).append(other)
        rows.append([rng.choice(theirs[owner]) for owner in rng.sample(list(theirs), count)])
    return rows


def _other_prompts(prompts: Sequence[Prompt], count: int, rng: random.Random) -> list[list[Prompt]]:
    """For each prompt ``count`` others with other texts; every one serves equally often."""
    fake = [Context(prompt.id, prompt.text) for prompt in prompts]
    by_id = {prompt.id: prompt for prompt in prompts}
    return [[by_id[other.id] for other in row] for row in _others(fake, fake, count, rng)]


def _check(
    contexts: Sequence[Context], prompts: Sequence[Prompt], objective: str, negatives: str, k: int
) -> None:
    if not prompts:
        raise DataError("There are no prompts.", "give --prompts FILE with at least one row")
    if objective == "prompt" or negatives == "prompt":
        if len({prompt.text for prompt in prompts}) < k + 1:
            raise DataError(
                f"{k + 1} different prompts are needed, not {len(prompts)}.",
                "add prompts, or lower --num-negatives",
            )
    elif negatives == "missing" and k > 1:
        raise DataError(
            f"There is one answer without context a prompt, so {k} negatives cannot be missing.",
            "take --negatives mixed or random, or --num-negatives 1",
        )
    elif negatives in ("random", "mixed", "hard"):
        for language in sorted({context.language for context in contexts} or {""}):
            mine = [context for context in contexts if context.language == language]
            count = min(len({c.text for c in mine}), len({c.owner for c in mine}))
            if count < k + 1:
                of_it = f" of language {language!r}" if language else ""
                raise DataError(
                    f"{negatives.capitalize()} negatives need {k + 1} users with different "
                    f"contexts{of_it}, not {count}.",
                    "add contexts, lower --num-negatives, or take --negatives missing",
                )


def contrast(
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    *,
    objective: str,
    negatives: str,
    prompts_per_context: int,
    seed: int,
    num_negatives: int = 1,
    missing_share: float = 0.5,
    samples_per_prompt: int = 1,
    nearest: Mapping[str, Sequence[str]] | None = None,
    foils: Sequence[Context] = (),
) -> list[Contrast]:
    """The pairs of a run, in a fixed order, given the seed.

    Args:
        contexts: users; none for the prompt objective.
        prompts: asked of every user, or of ``prompts_per_context`` each, in balance.
        objective: ``context`` or ``prompt``.
        negatives: of the context objective: ``random`` (another user), ``missing`` (no context),
            ``mixed`` (each in its share), ``prompt`` (same user, another prompt), or ``hard`` (the
            users of ``nearest``).
        prompts_per_context: 0 takes all.
        seed: of every choice.
        num_negatives: rejected answers, all different, for each chosen one.
        missing_share: of the chosen answers whose first negative is missing, when ``mixed``.
        samples_per_prompt: as many pairs of each, from different answers.
        nearest: by id of a user, others, the nearest first; without it ``hard`` takes random ones.
        foils: further users who are asked nothing, but whose contexts may be wrong ones.

    Raises:
        DataError: no prompts, or too few users or prompts to contrast.
    """
    everybody = [*contexts, *foils]
    _check(everybody, prompts, objective, negatives, num_negatives)
    if objective == "prompt":
        made = _prompt_pairs(prompts, num_negatives, seed)
    else:
        asked = _draws(contexts, prompts, prompts_per_context, seed)
        made, seen, lacked = [], 0, 0
        for prompt in prompts:
            rng = random.Random(f"{seed}:{prompt.id}")
            users = asked[prompt.id]
            rows = _negatives(users, everybody, prompt, prompts, negatives, num_negatives, rng)
            if negatives == "hard" and nearest is not None:
                rows = [[(id, "") for id in nearest[user.id][:num_negatives]] for user in users]
            if negatives == "mixed":
                seen += len(users)
                lacked += _take_away(rows, round(missing_share * seen) - lacked, rng)
            for user, row in zip(users, rows, strict=True):
                for k, (context_id, prompt_id) in enumerate(row):
                    name = _name(f"{user.id}/{prompt.id}", k, num_negatives)
                    made.append(Contrast(name, user.id, prompt.id, context_id, prompt_id))
    return made + [
        replace(item, id=f"{item.id}#{sample}", sample=sample)
        for sample in range(1, samples_per_prompt)
        for item in made
    ]


def _prompt_pairs(prompts: Sequence[Prompt], count: int, seed: int) -> list[Contrast]:
    others = _other_prompts(prompts, count, random.Random(f"{seed}:prompts"))
    return [
        Contrast(_name(prompt.id, k, count), "", prompt.id, "", other.id)
        for prompt, row in zip(prompts, others, strict=True)
        for k, other in enumerate(row)
    ]


def _take_away(rows: list[list[tuple[str, str]]], count: int, rng: random.Random) -> int:
    """Leave the first negative of so many rows without context, in place; returns ``count``."""
    for index in rng.sample(range(len(rows)), count):
        rows[index][0] = ("", "")
    return count


def _name(name: str, k: int, count: int) -> str:
    return name if count == 1 else f"{name}/{k}"


def _negatives(
    users: Sequence[Context],
    everybody: Sequence[Context],
    prompt: Prompt,
    prompts: Sequence[Prompt],
    kind: str,
    count: int,
    rng: random.Random,
) -> list[list[tuple[str, str]]]:
    """For each user who is asked a prompt, ids of context and prompt of each negative."""
    if kind == "missing" or not users:
        return [[("", "")] for _ in users]
    if kind == "prompt":
        rest = [other for other in prompts if other.text != prompt.text]
        return [[(user.id, other.id) for other in rng.sample(rest, count)] for user in users]
    return [[(other.id, "") for other in row] for row in _others(users, everybody, count, rng)]
