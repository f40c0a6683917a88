"""Closed blocks: answers in blocks of users x prompts, each chosen as often as it is rejected.

Over a cycle of users to one prompt, what raises an answer whoever asks cancels: with
``log p(a | c, x) = b(a) + d(a, c)`` the margins sum to ``sum_i d(a_i, c_i) - d(a_p(i), c_i)``, for
each ``b(a)`` enters once with either sign. So a step that holds whole cycles leaves only dependence
on the context to be learned. Answers come first: cycles are drawn among those that can be used.

negatives            closes?
-------------------  -------------------------------------------------------------------------------
random, hard         yes: a derangement of the users of each prompt and sample, in each block;
                     ``hard`` takes near users for a block
K of them            yes: each answer is chosen K times and rejected K times; where fewer than K
                     others are left, the number is lower for that prompt, the same for all
a prompt of one      yes: K other users (of its circle and language) are asked it as well; their
user alone           answers were needed as rejected ones anyway, and are now chosen once too
one user, foils      yes, likewise: an invented user's answer is chosen under that one's context
several samples      yes: each sample is a derangement of its own
languages            yes: users meet only within their language
missing              no: the answer without context is rejected under every user and never chosen,
                     so what it has in itself is lowered, and what answers with context share is
                     raised (that some context was present); only ``b`` of each user's style stays
mixed                in part: the share of other users' answers closes among itself; with K > 1 an
                     answer with a missing negative is chosen once more than it is rejected
prompt (objective    yes, the other way round: a derangement of the prompts of one user (or of all
or negatives)        prompts), which cancels what an answer has whatever was asked
answers dropped      yes: they are out before anything is drawn; an answer without any possible
before               partner (everybody said the same) is left out and counted
pairs dropped after  no: ``--min-pmi`` knows a pair only when it is scored; ``balance`` tells
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mipo_mlx.data.grid import PROMPTS_AT_ONCE, Cell, Grid, Rules
from mipo_mlx.data.negatives import Contrast, Edges, chunks, closes, edges, partners
from mipo_mlx.data.pairs import plain
from mipo_mlx.types import Context, Prompt, Response

Table = dict[str, list[str]]  # column -> its members, in order
Members = Sequence[str]


@dataclass(frozen=True)
class Drawn:
    """Pairs to make, and what found no place.

    Attributes:
        contrasts: those of a block in a row.
        alone: answers that nobody's answer could be set against.
    """

    contrasts: list[Contrast]
    alone: int


Near = Mapping[str, Sequence[str]]


def _team(columns: Table, size: int, near: Near, rng: random.Random) -> list[str]:
    """Members who stand in many columns together, the one with most left first, near ones next."""
    places: dict[str, dict[str, None]] = {}
    for name, members in columns.items():
        for member in members:
            places.setdefault(member, {})[name] = None
    rank = {member: rng.random() for member in places}
    team = [max(places, key=lambda member: (len(places[member]), rank[member]))]
    common = set(places[team[0]])
    order = list(near.get(team[0], ()))
    far = {member: order.index(member) if member in order else len(order) for member in places}
    while len(team) < min(size, len(places)):
        rest = [member for member in places if member not in team]
        mate = max(rest, key=lambda m: (len(common.intersection(places[m])), -far[m], rank[m]))
        if not common.intersection(places[mate]):
            break
        common &= places[mate].keys()
        team.append(mate)
    return team


def rectangles(
    table: Mapping[str, Members],
    size: int,
    width: int,
    fits: Callable[[str, Members], bool],
    rng: random.Random,
    near: Near | None = None,
) -> list[Table]:
    """Cut columns into blocks of about ``size`` members and ``width`` columns, every cell once.

    Args:
        table: members of each column.
        size, width: wanted.
        fits: whether members can stand together in a block's column; a part that cannot is not
            left over where the column as a whole can.
        rng: of every choice.
        near: by member, those preferred in its block, the first first.
    """
    left = {name: list(members) for name, members in table.items() if members}
    found = []
    while left:
        team = _team(left, size, near or {}, rng)
        rank = {name: rng.random() for name in left}
        there = {name: [m for m in members if m in team] for name, members in left.items()}
        best = sorted(left, key=lambda name: (-len(there[name]), rank[name]))
        block: Table = {}
        for name in best[:width]:
            if block and len(there[name]) < 2:
                break
            block[name] = _part(name, left[name], there[name], fits)
            left[name] = [m for m in left[name] if m not in block[name]]
            if not left[name]:
                del left[name]
        found.append(block)
    return found


def _part(
    name: str, members: Members, wanted: Members, fits: Callable[[str, Members], bool]
) -> list[str]:
    """The wanted members of a column, and as many others as it takes for both parts to fit."""
    part = list(wanted)
    rest = [member for member in members if member not in wanted]
    while rest and not fits(name, part):
        part.append(rest.pop(0))
    if rest and not fits(name, rest):
        part += rest
    return part


class _Drawer:
    """Draws the contrasts of one grid."""

    def __init__(self, grid: Grid, rules: Rules, answers: Mapping[Cell, Response] | None) -> None:
        self.rules = rules
        self.contexts: dict[str, Context] = {context.id: context for context in grid.contexts}
        self.prompts: dict[str, Prompt] = {prompt.id: prompt for prompt in grid.prompts}
        self.answers = answers
        self.cells = {c for c in grid.cells if answers is None or c in answers}
        self.said = {cell: plain(a.text) for cell, a in (answers or {}).items()}
        self.rng = random.Random(f"{rules.seed}:blocks")
        self.by_prompt = rules.objective == "prompt" or rules.negatives == "prompt"
        groups = chunks(list(self.prompts), PROMPTS_AT_ONCE)
        self.part = {name: part for part, names in enumerate(groups) for name in names}
        self.seen = self.lacking = 0  # chosen answers, and those with a missing negative

    def cell(self, column: str, member: str) -> Cell:
        """The answer of a member of a column."""
        name, _, sample = column.split("\x1f")
        ids = (name, member) if self.by_prompt else (member, name)
        return Cell(*ids, int(sample))

    def table(self, members: Iterable[Cell]) -> Table:
        """Cells by column: answers to one prompt, or of one user, of the same sample."""
        table: Table = {}
        for context, prompt, sample in members:
            ids = (context, prompt) if self.by_prompt else (prompt, context)
            part = self.part[prompt] if self.by_prompt else 0
            table.setdefault(f"{ids[0]}\x1f{part}\x1f{sample}", []).append(ids[1])
        return table

    def contrastable(self, one: Cell, other: Cell) -> bool:
        """Whether two answers may be set against each other."""
        if self.by_prompt:
            if self.prompts[one.prompt_id].text == self.prompts[other.prompt_id].text:
                return False
        elif other.context_id:
            mine, theirs = self.contexts[one.context_id], self.contexts[other.context_id]
            if mine.owner == theirs.owner or mine.text == theirs.text:
                return False
        if self.answers is None:
            return True
        sizes = sorted((len(self.answers[one].token_ids), len(self.answers[other].token_ids)))
        ratio = self.rules.length_ratio
        return self.said[one] != self.said[other] and (not ratio or sizes[1] <= ratio * sizes[0])

    def graph(self, column: str, members: Members) -> Edges:
        """Who of a column may serve whom."""
        cells = [self.cell(column, member) for member in members]
        return edges(len(cells), lambda i, j: self.contrastable(cells[i], cells[j]))

    def fits(self, column: str, members: Members) -> bool:
        """Whether members can all serve each other, and are more than the negatives of each."""
        if self.rules.negatives == "missing" and not self.by_prompt:
            return True
        enough = len(members) > self.rules.num_negatives
        return enough and closes(self.graph(column, members), random.Random(0))

    def lacked(self, column: str, members: Members) -> list[bool]:
        """Which members' first negative is from no context, in the share that is wanted so far."""
        if self.by_prompt or not self.rules.without_context:
            return [False] * len(members)
        share = self.rules.missing_share if self.rules.negatives == "mixed" else 1.0
        self.seen += len(members)
        count = max(0, min(len(members), round(share * self.seen) - self.lacking))
        if len(members) - count == 1:  # nobody would be left to serve the last
            count += 1
        self.lacking += count
        chosen = set(self.rng.sample(range(len(members)), count))
        return [index in chosen for index in range(len(members))]

    def rows(self, column: str, members: Members) -> list[list[Cell]]:
        """The rejected answers of each member, none for those who are left out."""
        k, graph = self.rules.num_negatives, self.graph(column, members)
        cells = [self.cell(column, member) for member in members]
        lack = self.lacked(column, members)
        rows: list[list[Cell]] = [[] for _ in members]
        if any(lack):
            for index, (cell, missing) in enumerate(zip(cells, lack, strict=True)):
                alone = Cell("", cell.prompt_id, cell.sample)
                if missing and alone in self.cells and self.contrastable(cell, alone):
                    rows[index].append(alone)
            if k > 1:
                self._add(rows, cells, partners(graph, k - 1, self.rng))
            graph, k = self._without(graph, rows, cells, lack), 1
        self._add(rows, cells, partners(graph, k, self.rng))
        return rows

    def _add(self, rows: list[list[Cell]], cells: Sequence[Cell], served: Edges) -> None:
        for row, others in zip(rows, served, strict=True):
            row += [cells[other] for other in others]

    def _without(
        self, graph: Edges, rows: list[list[Cell]], cells: Sequence[Cell], lack: Sequence[bool]
    ) -> Edges:
        """What is left of a graph for those without a missing negative, drawn edges taken out."""
        return [
            [
                other
                for other in others
                if not lack[index] and not lack[other] and cells[other] not in rows[index]
            ]
            for index, others in enumerate(graph)
        ]

    def contrasts(self, block: Table, name: str) -> tuple[list[Contrast], int]:
        """Pairs of a block, and how many of its answers found no partner."""
        made, alone = [], 0
        for column, members in block.items():
            for member, row in zip(members, self.rows(column, members), strict=True):
                one = self.cell(column, member)
                alone += not row
                made += [self._contrast(one, other, k, name) for k, other in enumerate(row)]
        return made, alone

    def _contrast(self, one: Cell, other: Cell, k: int, block: str) -> Contrast:
        key = "/".join(filter(None, (one.context_id, one.prompt_id)))
        key += f"/{k}" if self.rules.num_negatives > 1 else ""
        key += f"#{one.sample}" if one.sample else ""
        negative_prompt = other.prompt_id if self.by_prompt else ""
        ids = (one.context_id, one.prompt_id, other.context_id, negative_prompt)
        return Contrast(key, *ids, sample=one.sample, block=block)


def draw(grid: Grid, rules: Rules, answers: Mapping[Cell, Response] | None = None) -> Drawn:
    """Blocks of what was answered, and derangements inside them, given the seed.

    Args:
        grid: the answers that were wanted.
        rules: of pairing.
        answers: those that can be used; all that are wanted, whatever they say, when None.
    """
    drawer = _Drawer(grid, rules, answers)
    size, width = rules.users, rules.prompts
    if rules.objective == "prompt":
        size, width = rules.users * rules.prompts, 1
    elif drawer.by_prompt:
        size, width = width, size
    owner = {name: place for place, circle in enumerate(grid.circles) for name in circle}
    mine: list[list[Cell]] = [[] for _ in grid.circles]
    for cell in grid.cells:
        if cell in drawer.cells and cell.context_id in owner:
            mine[owner[cell.context_id]].append(cell)
    contrasts: list[Contrast] = []
    alone = number = 0
    near = {} if drawer.by_prompt else grid.near
    for cells in mine:
        table = drawer.table(cells)
        for block in rectangles(table, size, width, drawer.fits, drawer.rng, near):
            made, lonely = drawer.contrasts(block, f"b{number}")
            contrasts += made
            alone, number = alone + lonely, number + 1
    return Drawn(contrasts, alone)


def balance(chosen: Iterable[object], rejected: Iterable[object]) -> float:
    """Share of answers that are chosen as often as they are rejected.

    Args:
        chosen: an answer for each rejected one that it is set against.
        rejected: the rejected ones.
    """
    one, other = Counter(chosen), Counter(rejected)
    every = one.keys() | other.keys()
    return sum(one[answer] == other[answer] for answer in every) / max(1, len(every))
