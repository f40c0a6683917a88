"""Who is asked what: every answer that a run samples, before any of them is paired.

Users are asked in teams, so that the answers to a prompt are several users' and those of a user
share its context. Users meet only within a *circle* of about four teams, which validation can
hold out whole.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mipo_mlx.data.negatives import chunks
from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, Prompt

TEAMS = 4  # in a circle, at least, up to
CIRCLE = 64  # users
PROMPTS_AT_ONCE = 64  # among which prompts serve each other, where they do


class Cell(NamedTuple):
    """One answer, by ids; ``context_id`` is empty for an answer without context."""

    context_id: str
    prompt_id: str
    sample: int = 0


@dataclass(frozen=True)
class Rules:
    """How answers are asked for and paired.

    Attributes:
        objective: ``context`` or ``prompt``.
        negatives: of the context objective: ``random`` (another user), ``missing`` (no context),
            ``mixed`` (each in its share), ``prompt`` (same user, another prompt), or ``hard`` (a
            user nearby).
        num_negatives: rejected answers, all different, for each chosen one.
        missing_share: of the chosen answers whose first negative is missing, when ``mixed``.
        prompts_per_context: that each user is asked; 0 is all.
        samples: answers of each user to each prompt.
        users, prompts: of a block.
        length_ratio: most tokens of the longer answer over the shorter's; 0 is off.
        seed: of every choice.
    """

    objective: str = "context"
    negatives: str = "random"
    num_negatives: int = 1
    missing_share: float = 0.5
    prompts_per_context: int = 0
    samples: int = 1
    users: int = 4
    prompts: int = 4
    length_ratio: float = 0.0
    seed: int = 0

    @property
    def among_users(self) -> bool:
        """Whether rejected answers are other users'."""
        return self.objective == "context" and self.negatives in ("random", "mixed", "hard")

    @property
    def without_context(self) -> bool:
        """Whether some rejected answers are from no context."""
        some = self.negatives == "mixed" and self.missing_share > 0
        return self.objective == "context" and (some or self.negatives == "missing")


@dataclass(frozen=True)
class Grid:
    """The answers that are wanted.

    Attributes:
        contexts: users, and invented ones who serve as others.
        prompts: all.
        cells: each answer once, a user's together.
        circles: ids of the contexts whose answers may meet; "" is none.
        near: by id of a user, others, the nearest first; empty unless they were compared.
    """

    contexts: tuple[Context, ...]
    prompts: tuple[Prompt, ...]
    cells: tuple[Cell, ...]
    circles: tuple[tuple[str, ...], ...]
    near: Mapping[str, Sequence[str]] = field(default_factory=dict)


def check(contexts: Sequence[Context], prompts: Sequence[Prompt], rules: Rules) -> None:
    """Whether there is enough to contrast.

    Raises:
        DataError: no prompts, or too few users or prompts.
    """
    k = rules.num_negatives
    if not prompts:
        raise DataError("There are no prompts.", "give --prompts FILE with at least one row")
    if rules.objective == "prompt" or rules.negatives == "prompt":
        if len({prompt.text for prompt in prompts}) < k + 1:
            raise DataError(
                f"{k + 1} different prompts are needed, not {len(prompts)}.",
                "add prompts, or lower --num-negatives",
            )
    elif rules.negatives == "missing" and k > 1:
        raise DataError(
            f"There is one answer without context a prompt, so {k} negatives cannot be missing.",
            "take --negatives mixed or random, or --num-negatives 1",
        )
    elif rules.among_users:
        for language in sorted({context.language for context in contexts} or {""}):
            mine = [context for context in contexts if context.language == language]
            count = min(len({c.text for c in mine}), len({c.owner for c in mine}))
            if count < k + 1:
                of_it = f" of language {language!r}" if language else ""
                raise DataError(
                    f"{rules.negatives.capitalize()} negatives need {k + 1} users with different "
                    f"contexts{of_it}, not {count}.",
                    "add contexts, lower --num-negatives, or take --negatives missing",
                )


def circles(
    contexts: Sequence[Context], rules: Rules, near: Mapping[str, Sequence[str]]
) -> list[list[Context]]:
    """Users by language, in random groups or in groups of near ones; a user's contexts together."""
    rng = random.Random(f"{rules.seed}:circles")
    found = []
    for language in dict.fromkeys(context.language for context in contexts):
        owned: dict[str, list[Context]] = {}
        for context in contexts:
            if context.language == language:
                owned.setdefault(context.owner, []).append(context)
        size = max(min(TEAMS * rules.users, CIRCLE), 2 * (rules.num_negatives + 1))
        order = rng.sample(list(owned), len(owned))
        if near:
            leaders = [owned[owner][0] for owner in order]
            order = [c.owner for team in teams(leaders, rules.users, near, rng) for c in team]
        found += [[c for owner in group for c in owned[owner]] for group in chunks(order, size)]
    return found


def teams(
    users: Sequence[Context], size: int, near: Mapping[str, Sequence[str]], rng: random.Random
) -> list[list[Context]]:
    """Users in random groups of about ``size``, or each with the nearest who are still free."""
    order = rng.sample(list(users), len(users))
    if not near:
        count = max(1, len(order) // size)
        return [order[i::count] for i in range(count)]
    free = {user.id: user for user in order}
    found = []
    while free:
        leader = next(iter(free.values()))
        mates = [name for name in near.get(leader.id, ()) if name in free][: size - 1]
        found.append([free.pop(name) for name in (leader.id, *mates)])
    if len(found) > 1 and len(found[-1]) < 2:
        found[-2] += found.pop()
    return found


class _Dealer:
    """Deals prompts to teams of one circle; all circles together use prompts in balance."""

    def __init__(self, prompts: Sequence[Prompt], rules: Rules) -> None:
        self.rules = rules
        self.shared = [prompt.id for prompt in prompts if not prompt.context_id]
        self.own: dict[str, list[str]] = {}
        for prompt in prompts:
            if prompt.context_id:
                self.own.setdefault(prompt.context_id, []).append(prompt.id)
        self.used: Counter[str] = Counter()

    def deal(
        self, users: Sequence[Context], near: Mapping[str, Sequence[str]], rng: random.Random
    ) -> dict[str, list[str]]:
        """Prompts of each user, by id of the context: its own first, then shared ones."""
        each, hands, room = self.rules.prompts_per_context, {}, {}
        for user in users:
            owned = [p for name in dict.fromkeys((user.id, user.owner)) for p in self._own(name)]
            rng.shuffle(owned)
            hands[user.id] = owned[: each or len(owned)]
            room[user.id] = len(self.shared)
            if each:
                room[user.id] = min(room[user.id], each - len(hands[user.id]))
        if all(count == len(self.shared) for count in room.values()):
            return {name: hand + self.shared for name, hand in hands.items()}
        while any(room.values()):
            for team in teams([u for u in users if room[u.id]], self.rules.users, near, rng):
                self._round([user.id for user in team], hands, room, rng)
        return hands

    def _own(self, name: str) -> Sequence[str]:
        return self.own.get(name, ())

    def _round(
        self,
        team: Sequence[str],
        hands: dict[str, list[str]],
        room: dict[str, int],
        rng: random.Random,
    ) -> None:
        """Some prompts to all of a team: those that most of it lack, the least used first."""
        held = Counter(name for user in team for name in hands[user])
        rank = {name: rng.random() for name in self.shared}
        order = sorted(self.shared, key=lambda name: (held[name], self.used[name], rank[name]))
        for name in order[: min(self.rules.prompts, max(room[user] for user in team))]:
            for user in team:
                if room[user] and name not in hands[user]:
                    hands[user].append(name)
                    room[user] -= 1
                    self.used[name] += 1


def _helper(users: Sequence[Context], wait: Sequence[Context], k: int) -> Context | None:
    """Who must be asked besides, so that ``users`` can serve each other k times; None if nobody.

    They can where no owner's contexts, nor those of one text, are more than all others together.
    """
    owner, most = Counter(user.owner for user in users).most_common(1)[0]
    text, alike = Counter(user.text for user in users).most_common(1)[0]
    if len(users) - max(most, alike) >= max(most, alike, k):
        return None
    texts = {user.text for user in users}
    for other in wait:
        stranger = other.owner != owner if most >= alike else other.text != text
        if stranger and other not in users and other.text not in texts:
            return other
    return None


def _complete(
    circle: Sequence[Context],
    table: Mapping[str, list[Context]],
    rules: Rules,
    near: Mapping[str, Sequence[str]],
    rng: random.Random,
) -> None:
    """Ask further users of a circle where those asked a prompt cannot serve each other, in place.

    The same user stands in for a block's prompts in a row, so that its context is shared.
    """
    order = rng.sample(list(circle), len(circle))
    turns: Counter[str] = Counter()
    for users in filter(None, table.values()):
        first = users[0].id
        start = turns[first] // rules.prompts % len(order)
        turns[first] += 1
        wait = order[start:] + order[:start]
        rank = {name: place for place, name in enumerate(near.get(first, ()))}
        wait.sort(key=lambda user: rank.get(user.id, len(rank)))
        while other := _helper(users, wait, rules.num_negatives):
            users.append(other)


def _cells(table: Mapping[str, Sequence[Context]], samples: int) -> list[Cell]:
    """Answers to the prompts of a table, a user's together."""
    mine: dict[str, list[str]] = {}
    for name, users in table.items():
        for user in users:
            mine.setdefault(user.id, []).append(name)
    return [Cell(u, name, n) for u, names in mine.items() for name in names for n in range(samples)]


def _of_prompts(prompts: Sequence[Prompt], rules: Rules) -> Grid:
    """Each prompt without context; prompts serve each other within random groups."""
    rng = random.Random(f"{rules.seed}:prompts")
    by_id = {prompt.id: prompt for prompt in prompts}
    names = rng.sample(list(by_id), len(by_id))
    cells = [Cell("", prompt.id, n) for n in range(rules.samples) for prompt in prompts]
    return Grid((), tuple(by_id[name] for name in names), tuple(cells), (("",),))


def lay_out(
    contexts: Sequence[Context],
    foils: Sequence[Context],
    prompts: Sequence[Prompt],
    rules: Rules,
    near: Mapping[str, Sequence[str]] | None = None,
) -> Grid:
    """The answers that are wanted, given the seed.

    Args:
        contexts: users; none for the prompt objective.
        foils: invented users, who are asked what a real one needs somebody else's answer to.
        prompts: asked of every user, or of ``prompts_per_context`` each, in balance.
        rules: of asking and pairing.
        near: by id of a user, others, the nearest first, for teams of hard negatives.

    Raises:
        DataError: no prompts, or too few users or prompts to contrast.
    """
    check([*contexts, *foils], prompts, rules)
    if rules.objective == "prompt":
        return _of_prompts(prompts, rules)
    dealer, near = _Dealer(prompts, rules), near or {}
    cells: list[Cell] = []
    groups, free = [], list(foils)
    for number, circle in enumerate(circles(contexts, rules, near)):
        rng = random.Random(f"{rules.seed}:{number}:deal")
        hands = dealer.deal(circle, near, rng)
        table: dict[str, list[Context]] = {prompt.id: [] for prompt in prompts}
        for user in circle:
            for name in hands[user.id]:
                table[name].append(user)
        everybody = [*circle, *(foil for foil in free if foil.language == circle[0].language)]
        free = [foil for foil in free if foil not in everybody]
        if rules.among_users:
            _complete(everybody, table, rules, near, rng)
        cells += _cells(table, rules.samples)
        groups.append(tuple(user.id for user in everybody))
    if rules.without_context:
        wanted = dict.fromkeys((cell.prompt_id, cell.sample) for cell in cells)
        cells += [Cell("", name, n) for name, n in wanted]
    return Grid((*contexts, *foils), tuple(prompts), tuple(cells), tuple(groups), near)
