"""Blocks are closed: every answer is chosen as often as it is rejected, wherever that can be."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scipy.stats import chisquare

from mipo_mlx.core.losses import mipo_softmax_loss
from mipo_mlx.data.batches import EncodedPair, batches
from mipo_mlx.data.blocks import Drawn, balance, draw
from mipo_mlx.data.grid import Cell, Grid, Rules, lay_out
from mipo_mlx.data.negatives import Contrast, derangement, edges, partners, regular
from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, Prompt, Response

USERS = [Context(f"u{n}", f"I am number {n}.") for n in range(7)]
PROMPTS = [Prompt(f"p{n}", f"Question {n}?") for n in range(5)]


def answers_of(grid: Grid, drop: float = 0.0, seed: int = 0) -> dict[Cell, Response]:
    """An answer of its own in each cell, but for a random share."""
    rng = random.Random(seed)
    kept = [cell for cell in grid.cells if rng.random() >= drop]
    return {cell: Response(f"{i}", (i,), "stop") for i, cell in enumerate(kept)}


def sides(item: Contrast) -> tuple[Cell, Cell]:
    """The chosen and the rejected answer."""
    other = item.negative_prompt_id or item.prompt_id
    return (
        Cell(item.context_id, item.prompt_id, item.sample),
        Cell(item.negative_context_id, other, item.sample),
    )


def blocks_of(made: Iterable[Contrast]) -> list[list[Contrast]]:
    found: dict[str, list[Contrast]] = defaultdict(list)
    for item in made:
        found[item.block].append(item)
    return list(found.values())


def check_closed(made: Sequence[Contrast]) -> None:
    """By a count of its own: in each block, as often chosen as rejected, whatever the answer."""
    for block in blocks_of(made):
        chosen, rejected = zip(*map(sides, block), strict=True)
        assert Counter(chosen) == Counter(rejected)
        assert balance(chosen, rejected) == 1.0


def test_derangements_are_uniform() -> None:
    rng = random.Random(1)
    counts = Counter(tuple(derangement(4, rng)) for _ in range(9000))
    assert len(counts) == 9  # !4
    assert all(value != index for order in counts for index, value in enumerate(order))
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_no_derangement_of_one() -> None:
    with pytest.raises(ValueError, match="derangement of 1"):
        derangement(1, random.Random(0))


@pytest.mark.parametrize("k", [1, 2])
def test_a_regular_graph_is_found_just_where_there_is_one(k: int) -> None:
    rng = random.Random(k)
    seen = set()
    for _ in range(120):
        n = rng.randint(2, 4)
        allowed = {(i, j) for i, j in itertools.combinations(range(n), 2) if rng.random() < 0.7}
        graph = edges(n, lambda i, j, allowed=allowed: (min(i, j), max(i, j)) in allowed)
        exists = any(
            all(Counter(itertools.chain(*rows))[j] == k for j in range(n))
            for rows in itertools.product(*(itertools.combinations(row, k) for row in graph))
        )
        found = regular(graph, k, rng)
        assert (found is not None) == exists
        seen.add(exists)
        if found is not None:
            assert all(
                len(set(row)) == k and set(row) <= set(graph[i]) for i, row in enumerate(found)
            )
            assert Counter(itertools.chain(*found)) == dict.fromkeys(range(n), k)
    assert seen == {True, False}


def test_as_few_as_can_be_are_left_out_where_many_say_the_same() -> None:
    rng = random.Random(0)
    for sizes in ((3, 1), (4, 2, 1), (1, 1, 1), (5,), (2, 2)):
        kind = [which for which, size in enumerate(sizes) for _ in range(size)]
        graph = edges(len(kind), lambda i, j, kind=kind: kind[i] != kind[j])
        rows = partners(graph, 1, rng)
        most = max(sizes)
        others = sum(sizes) - most
        wanted = sum(sizes) if most <= others else 2 * others  # a class closes with its equals
        assert sum(map(bool, rows)) == wanted
        served = Counter(itertools.chain(*rows))
        assert all(len(row) == served[i] for i, row in enumerate(rows))


@pytest.mark.parametrize("seed", range(40))
def test_every_answer_is_chosen_as_often_as_it_is_rejected(seed: int) -> None:
    rng = random.Random(seed)
    languages = ("en", "de") if rng.random() < 0.3 else ("",)
    k = rng.choice((1, 1, 2, 3))
    users = []
    for n in range(rng.randint(2 * k + 2, 30)):
        language = languages[n % len(languages)]
        owner = f"o{n // 2}{language}" if rng.random() < 0.2 else ""
        users.append(Context(f"u{n}", f"I am {n}.", language=language, user=owner))
    own = rng.random() < 0.3
    prompts = [
        Prompt(f"p{n}", f"Q{n}?", context_id=users[n % len(users)].id if own else "")
        for n in range(rng.randint(2, 20))
    ]
    rules = Rules(
        negatives=rng.choice(("random", "hard")), num_negatives=k, seed=seed,
        prompts_per_context=rng.choice((0, 3, 8)), samples=rng.choice((1, 1, 2)),
        users=rng.choice((2, 4, 5)), prompts=rng.choice((1, 2, 4)),
    )  # fmt: skip
    try:
        grid = lay_out(users, [], prompts, rules)
    except DataError:
        pytest.skip("too few owners of a language in this draw")
    answers = answers_of(grid, rng.choice((0.0, 0.2, 0.6)), seed)
    made = draw(grid, rules, answers)
    check_closed(made.contrasts)
    check_rules(made, grid, rules, answers)
    assert draw(grid, rules, answers) == made  # seeded


def check_rules(made: Drawn, grid: Grid, rules: Rules, answers: dict[Cell, Response]) -> None:
    """Who meets whom, and that nobody is left out who has somebody to meet."""
    by_id = {context.id: context for context in grid.contexts}
    circle = {name: place for place, names in enumerate(grid.circles) for name in names}
    rows: dict[Cell, list[Cell]] = defaultdict(list)
    for item in made.contrasts:
        one, other = sides(item)
        rows[one].append(other)
        mine, theirs = by_id[one.context_id], by_id[other.context_id]
        assert mine.owner != theirs.owner and mine.text != theirs.text
        assert mine.language == theirs.language
        assert answers[one].text != answers[other].text
        assert one[1:] == other[1:]
    assert all(len(set(row)) == len(row) <= rules.num_negatives for row in rows.values())
    assert len({item.id for item in made.contrasts}) == len(made.contrasts)
    assert made.alone == len(answers) - len(rows)
    columns: dict[Any, list[Cell]] = defaultdict(list)
    for cell in answers:
        columns[cell[1:], circle[cell.context_id]].append(cell)
    for column in columns.values():
        owners = [by_id[cell.context_id].owner for cell in column]
        most = max(Counter(owners).values())
        if len(column) - most >= most:  # a derangement between owners exists
            assert all(cell in rows for cell in column)


def test_sixty_users_and_thirty_eight_prompts_with_a_fifth_dropped_close() -> None:
    users = [Context(f"u{n}", f"I am {n}.") for n in range(60)]
    prompts = [Prompt(f"p{n}", f"Q{n}?") for n in range(38)]
    rules = Rules()
    grid = lay_out(users, [], prompts, rules)
    assert len(grid.cells) == 60 * 38
    answers = answers_of(grid, 0.2)
    made = draw(grid, rules, answers)
    assert made.alone == 0 and len(made.contrasts) == len(answers)
    check_closed(made.contrasts)
    blocks = blocks_of(made.contrasts)
    contexts = [len({item.context_id for item in block}) for block in blocks]
    assert len(answers) / len(blocks) > 10  # few scraps
    assert sum(contexts) < 0.4 * len(answers)  # a context is forwarded for 2.5 pairs or more


def test_blocks_of_a_dense_grid_are_whole() -> None:
    users = [Context(f"u{n}", f"I am {n}.") for n in range(16)]
    prompts = [Prompt(f"p{n}", f"Q{n}?") for n in range(8)]
    rules = Rules(users=4, prompts=4)
    for block in blocks_of(draw(lay_out(users, [], prompts, rules), rules).contrasts):
        assert len(block) == 16
        assert len({item.context_id for item in block}) == 4
        assert len({item.prompt_id for item in block}) == 4


def test_users_are_asked_in_teams_and_prompts_in_balance() -> None:
    users = [Context(f"u{n}", f"I am {n}.") for n in range(64)]
    prompts = [Prompt(f"p{n}", f"Q{n}?") for n in range(100)]
    rules = Rules(prompts_per_context=8)
    grid = lay_out(users, [], prompts, rules)
    assert set(Counter(cell.context_id for cell in grid.cells).values()) == {8}
    asked = Counter(cell.prompt_id for cell in grid.cells)
    assert max(asked.values()) - min(asked.get(p.id, 0) for p in prompts) <= rules.users
    made = draw(grid, rules)
    assert all(len(block) == 16 for block in blocks_of(made.contrasts))
    met = defaultdict(set)
    for item in made.contrasts:
        met[item.context_id].add(item.negative_context_id)
    circle = {name: set(names) for names in grid.circles for name in names}
    assert all(others <= circle[user] for user, others in met.items())
    assert len(grid.circles) == 4


def test_a_prompt_of_one_user_is_asked_of_somebody_else_too() -> None:
    prompts = [Prompt(f"p{n}", f"Q{n}?", context_id=f"u{n % 7}") for n in range(28)]
    for k in (1, 3):
        rules = Rules(num_negatives=k, prompts=4)
        grid = lay_out(USERS, [], prompts, rules)
        assert len(grid.cells) == 28 * (k + 1)  # no more answers than pairs of each need anyway
        made = draw(grid, rules)
        check_closed(made.contrasts)
        assert made.alone == 0


@pytest.mark.parametrize("parts", [1, 3])
def test_one_user_closes_with_invented_ones(parts: int) -> None:
    mine = [Context(f"me#{n}", f"Part {n}.", user="me") for n in range(parts)]
    foils = [Context(f"foil-{n}", f"Invented {n}.") for n in range(8)]
    grid = lay_out(mine, foils, PROMPTS, rules := Rules())
    assert len(grid.cells) == 2 * parts * len(PROMPTS)
    made = draw(grid, rules)
    check_closed(made.contrasts)
    chosen = Counter(item.context_id.partition("-")[0] for item in made.contrasts)
    assert chosen["foil"] == parts * len(PROMPTS) == len(made.contrasts) / 2
    shared = {i.negative_context_id for i in made.contrasts if i.context_id == "me#0"}
    assert len(shared) <= 2 * parts  # an invented user stands in for several prompts in a row


def test_missing_negatives_do_not_close_and_mixed_ones_do_in_part() -> None:
    rules = Rules(negatives="missing")
    made = draw(lay_out(USERS[:1], [], PROMPTS, rules), rules)
    assert [(i.context_id, i.negative_context_id) for i in made.contrasts] == [("u0", "")] * 5
    assert balance(*zip(*map(sides, made.contrasts), strict=True)) == 0.0
    for share in (0.0, 0.3, 0.5, 1.0):
        rules = Rules(negatives="mixed", missing_share=share)
        items = draw(lay_out(USERS, [], PROMPTS, rules), rules).contrasts
        assert len(items) == 35
        lacking = sum(not item.negative_context_id for item in items)
        assert abs(lacking - 35 * share) <= 1
        rest = [item for item in items if item.negative_context_id]
        check_closed(rest)


def test_mixed_negatives_of_several_keep_all_but_the_first() -> None:
    rules = Rules(negatives="mixed", num_negatives=3)
    items = draw(lay_out(USERS, [], PROMPTS, rules), rules).contrasts
    per = Counter((item.context_id, item.prompt_id) for item in items)
    assert set(per.values()) <= {2, 3}
    assert sum(not item.negative_context_id for item in items) == pytest.approx(35 / 2, abs=2)


def test_prompt_negatives_and_the_prompt_objective_close_over_prompts() -> None:
    rules = Rules(negatives="prompt", num_negatives=2)
    items = draw(lay_out(USERS, [], PROMPTS, rules), rules).contrasts
    assert len(items) == 70
    check_closed(items)
    assert all(i.context_id == i.negative_context_id for i in items)
    assert all(i.negative_prompt_id not in ("", i.prompt_id) for i in items)
    rules = Rules(objective="prompt")
    prompts = [Prompt(f"p{n}", f"Q{n // 2}?") for n in range(300)]  # texts stand twice
    grid = lay_out([], [], prompts, rules)
    items = draw(grid, rules).contrasts
    assert {item.prompt_id for item in items} == {prompt.id for prompt in prompts}
    check_closed(items)
    text = {prompt.id: prompt.text for prompt in prompts}
    assert all(text[i.prompt_id] != text[i.negative_prompt_id] for i in items)


def test_lengths_that_differ_too_much_never_meet() -> None:
    rules = Rules(length_ratio=1.5, users=8)
    users = [Context(f"u{n}", f"I am {n}.") for n in range(8)]
    grid = lay_out(users, [], PROMPTS, rules)
    size = {context.id: 10 if n < 4 else 20 for n, context in enumerate(users)}
    answers = {c: Response(f"{c}", (1,) * size[c.context_id], "stop") for c in grid.cells}
    made = draw(grid, rules, answers)
    assert len(made.contrasts) == 40
    check_closed(made.contrasts)
    assert all(size[i.context_id] == size[i.negative_context_id] for i in made.contrasts)


def test_hard_negatives_are_near_users_and_close() -> None:
    users = [Context(f"u{n}", f"I am {n}.") for n in range(32)]

    def distance(name: str, n: int) -> int:
        return abs(int(name[1:]) // 4 - n // 4)

    near = {
        f"u{n}": sorted((f"u{m}" for m in range(32) if m != n), key=lambda name: distance(name, n))
        for n in range(32)
    }
    for each in (0, 8):
        rules = Rules(negatives="hard", prompts_per_context=each)
        made = draw(lay_out(users, [], PROMPTS, rules, near), rules)
        check_closed(made.contrasts)
        same = [
            int(i.context_id[1:]) // 4 == int(i.negative_context_id[1:]) // 4
            for i in made.contrasts
        ]
        assert sum(same) / len(same) > 0.9


@pytest.mark.parametrize("k", [1, 3])
def test_a_closed_step_leaves_what_does_not_depend_on_the_context_alone(k: int) -> None:
    """A table model, ``log p(a | c) = b(a) + d(c, a) - Z(c)``: b moves in open steps alone."""
    users = [Context(f"u{n}", f"I am {n}.") for n in range(8)]
    rules = Rules(num_negatives=k, prompts=4)
    made = draw(lay_out(users, [], PROMPTS, rules), rules).contrasts
    place: dict[Cell, int] = {}
    for item in made:
        place.setdefault(sides(item)[0], len(place))
    who = {user.id: n for n, user in enumerate(users)}
    rows: dict[Cell, list[int]] = defaultdict(list)
    for item in made:
        one, other = sides(item)
        rows[one].append(place[other])
    chosen = list(rows)
    encoded = {
        name: [
            EncodedPair(str(c), (1,), ((1,), (2,)), c.context_id, of_block[c] if closed else "")
            for c in chosen
        ]
        for name, closed in (("blocks", True), ("contexts", False))
        for of_block in [{sides(item)[0]: item.block for item in made}]
    }
    steps = {"blocks": batches(encoded["blocks"], 16, seed=0, epoch=0)}
    by_user = [[i for i, c in enumerate(chosen) if c.context_id == user.id] for user in users]
    steps["contexts"] = by_user
    rng = np.random.default_rng(0)
    bias = mx.array(rng.normal(size=len(place)).astype(np.float32))
    own = mx.array(rng.normal(size=(len(users), len(place))).astype(np.float32))

    def loss(b: mx.array, step: list[int]) -> mx.array:
        logps = b + own - mx.logsumexp(b + own, axis=1, keepdims=True)
        start = bias + own - mx.logsumexp(bias + own, axis=1, keepdims=True)
        at = mx.array([who[chosen[i].context_id] for i in step])[:, None]
        answers = mx.array([[place[chosen[i]], *rows[chosen[i]]] for i in step])
        policy, reference = logps[at, answers], start[at, answers]
        return mipo_softmax_loss(
            policy_chosen_logps=policy[:, 0],
            policy_rejected_logps=policy[:, 1:],
            reference_chosen_logps=reference[:, 0],
            reference_rejected_logps=reference[:, 1:],
            beta=0.1,
        ).mean()

    moved = {
        name: [float(mx.linalg.norm(mx.grad(loss)(bias, step))) for step in every]
        for name, every in steps.items()
    }
    assert max(moved["blocks"]) < 1e-6 * min(moved["contexts"])
    assert min(moved["contexts"]) > 1e-3


def test_another_seed_changes_the_blocks() -> None:
    made = [draw(lay_out(USERS, [], PROMPTS, rules), rules) for rules in (Rules(), Rules(seed=1))]
    assert made[0] != made[1]


def test_users_with_the_same_text_are_never_each_others_negatives() -> None:
    users = [Context("a", "same"), Context("b", "same"), Context("c", "other")]
    for seed in range(20):
        made = draw(lay_out(users, [], PROMPTS, rules := Rules(seed=seed)), rules)
        assert made.alone == len(PROMPTS)  # of three only two can close
        for item in made.contrasts:
            assert {item.context_id, item.negative_context_id} != {"a", "b"}


def test_balance_counts_answers() -> None:
    assert balance("aab", "abb") == 0.0
    assert balance("ab", "ba") == 1.0
    assert balance("abc", "bad") == 0.5


@pytest.mark.parametrize(
    ("users", "prompts", "rules", "message"),
    [
        (USERS[:1], PROMPTS, Rules(), "need 2 users"),
        ([Context("a", "x"), Context("b", "x")], PROMPTS, Rules(), "need 2 users"),
        (USERS, [], Rules(), "no prompts"),
        ([], PROMPTS[:1], Rules(objective="prompt"), "2 different prompts"),
        (USERS, PROMPTS, Rules(num_negatives=7), "need 8 users"),
        (USERS, PROMPTS, Rules(negatives="missing", num_negatives=2), "cannot be missing"),
    ],
)
def test_too_little_to_contrast(
    users: list[Context], prompts: list[Prompt], rules: Rules, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        lay_out(users, [], prompts, rules)
