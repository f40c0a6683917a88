"""Who gets whose answer as the rejected one: seeded derangements, one or several at a time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")
Edges = list[list[int]]  # for each member, the members that may serve it


@dataclass(frozen=True)
class Contrast:
    """One pair to make, by ids; empty ids as in ``PreferencePair``.

    ``sample`` tells apart several answers to the same prompt, from 0; both sides have the same.
    Contrasts of one ``block`` belong in one optimizer step.
    """

    id: str
    context_id: str
    prompt_id: str
    negative_context_id: str
    negative_prompt_id: str
    sample: int = 0
    block: str = ""


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


def edges(n: int, allowed: Callable[[int, int], bool]) -> Edges:
    """For each of ``n`` members the others that may serve it, by a symmetric rule."""
    return [[j for j in range(n) if j != i and allowed(i, j)] for i in range(n)]


def _shifts(n: int, k: int, rng: random.Random) -> Edges:
    """k partners of each of n > k members, each serving k: shifts of one random order."""
    if k == 1:
        return [[other] for other in derangement(n, rng)]
    order = list(range(n))
    rng.shuffle(order)
    place = {member: spot for spot, member in enumerate(order)}
    steps = rng.sample(range(1, n), k)
    return [[order[(place[member] + step) % n] for step in steps] for member in range(n)]


class _Matching:
    """A bipartite b-matching: up to k partners for each member, each serving at most k times."""

    def __init__(self, graph: Edges, k: int) -> None:
        self.graph, self.k = graph, k
        self.taken: Edges = [[] for _ in graph]
        self.served: Edges = [[] for _ in graph]

    def augment(self, root: int) -> bool:
        """One partner more for a member, others' exchanged along a shortest augmenting path."""
        via: dict[int, int | None] = {root: None}  # member -> the partner it would give up
        offered: dict[int, int] = {}  # partner -> the member it would go to
        queue = deque([root])
        while queue:
            member = queue.popleft()
            for other in self.graph[member]:
                if other in offered or other in self.taken[member]:
                    continue
                offered[other] = member
                if len(self.served[other]) < self.k:
                    self._exchange(other, offered, via)
                    return True
                for rival in self.served[other]:
                    if rival not in via:
                        via[rival] = other
                        queue.append(rival)
        return False

    def _exchange(self, free: int, offered: dict[int, int], via: dict[int, int | None]) -> None:
        """Hand partners on, back along a path that ends at a free one."""
        given: int | None = free
        while given is not None:
            member = offered[given]
            self.taken[member].append(given)
            self.served[given].append(member)
            given = via[member]
            if given is not None:
                self.taken[member].remove(given)
                self.served[given].remove(member)


def regular(graph: Edges, k: int, rng: random.Random) -> Edges | None:
    """k partners of each member, such that each serves k times; None where there are none.

    A k-factor of the digraph, by augmenting paths in a random order.
    """
    n = len(graph)
    if n > k and all(len(row) == n - 1 for row in graph):
        return _shifts(n, k, rng)
    matching = _Matching([rng.sample(row, len(row)) for row in graph], k)
    members = rng.sample(range(n), n)
    whole = all(matching.augment(member) for _ in range(k) for member in members)
    return matching.taken if whole else None


def closes(graph: Edges, rng: random.Random) -> bool:
    """Whether all members can serve each other once each."""
    return len(graph) > 1 and regular(graph, 1, rng) is not None


def partners(graph: Edges, k: int, rng: random.Random) -> Edges:
    """Up to k partners of each member, such that each serves as often as it is served.

    Fewer than k, the same for all, where that leaves nobody out; else the member with the fewest
    possible partners is left out, with an empty row, until the others close.
    """
    left = list(range(len(graph)))
    while len(left) > 1:
        place = {member: spot for spot, member in enumerate(left)}
        part = [[place[other] for other in graph[member] if other in place] for member in left]
        for count in range(min(k, len(left) - 1), 0, -1):
            found = regular(part, count, rng)
            if found is not None:
                rows: Edges = [[] for _ in graph]
                for member, row in zip(left, found, strict=True):
                    rows[member] = [left[spot] for spot in row]
                return rows
        fewest = min(map(len, part))
        left.remove(
            rng.choice([m for m, row in zip(left, part, strict=True) if len(row) == fewest])
        )
    return [[] for _ in graph]


def chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Items in their order in groups as even as can be, each of ``size`` or more, or all in one."""
    count = max(1, len(items) // size)
    cuts = [i * len(items) // count for i in range(count + 1)]
    return [list(items[a:b]) for a, b in pairwise(cuts)]
