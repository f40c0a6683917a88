"""Facts and texts of users drawn out without their contexts, base and adapter, user by user."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mipo_mlx.evaluation.memorization import extraction
from mipo_mlx.evaluation.study import Subject
from mipo_mlx.generation.answers import Ask, sample
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.results import SIDES
from mipo_mlx.types import Context, Response

LONGEST = 64  # tokens of an answer that is asked for without a context
Groups = Sequence[Sequence[Context]]
Figure = tuple[str, float, float]  # user, base, adapter


@dataclass(frozen=True)
class Group:
    """What an attack found of some users: a value a user and side [users]."""

    users: list[str]
    base: np.ndarray
    adapter: np.ndarray


def by_user(figures: Iterable[Figure]) -> Group:
    """Means over what belongs to one user, users in the order in which they come."""
    mine: dict[str, list[tuple[float, float]]] = {}
    for user, base, adapter in figures:
        mine.setdefault(user, []).append((base, adapter))
    means = np.array([np.mean(values, axis=0) for values in mine.values()]).reshape(-1, 2)
    return Group(list(mine), means[:, 0], means[:, 1])


def drawn(contexts: Sequence[Context], most: int, seed: int) -> list[Context]:
    """At most so many contexts, a seeded draw in their order."""
    if len(contexts) <= most:
        return list(contexts)
    places = random.Random(f"memorization:{seed}").sample(range(len(contexts)), most)
    return [contexts[at] for at in sorted(places)]


def _scored(subject: Subject, rows: Sequence[Row], what: str) -> list[list[tuple[float, ...]]]:
    """Log-probs of the rows under base and adapter, nats."""
    made = []
    for side in SIDES:
        with subject.side(side) as lm:
            stage = f"{side}: {what}"
            made.append(list(extraction.told(lm, rows, subject.on_progress, stage)))
    return made


def _answers(subject: Subject, wanted: Sequence[Ask]) -> list[dict[str, Response]]:
    """Answers of base and adapter by key, with the same seeds."""
    config = subject.config
    short = replace(config.generate, max_tokens=min(LONGEST, config.generate.max_tokens))
    made = []
    for side in SIDES:
        with subject.side(side) as lm:
            stage = f"{side}: answers without contexts"
            journal = subject.journal(stage)
            seed = config.data.seed + 2
            made.append(sample(lm, wanted, short, seed, subject.on_progress, stage, journal))
    return made


def asked(subject: Subject, groups: Groups) -> dict[str, list[Group]]:
    """``asked`` and ``requests``: shares of answers that state the user's own values.

    A question is the same for all users, and so are its answers; what differs is whose value is
    looked for. Nothing where a group tells no facts.
    """
    groups = [[context for context in group if context.facts] for group in groups]
    if not all(groups):
        return {}
    questions = extraction.questions([context for group in groups for context in group])
    prompts = subject.inputs.train_prompts
    requests = random.Random(f"requests:{subject.config.data.seed}").sample(
        prompts, min(len(prompts), extraction.REQUESTS)
    )
    turns = range(subject.config.eval.memorization_samples)
    direct = {name: [Ask(None, prompt, t) for t in turns] for name, prompt in questions.items()}
    everyday = [Ask(None, prompt, turn) for prompt in requests for turn in turns]
    sides = _answers(subject, [*(ask for asks in direct.values() for ask in asks), *everyday])

    def stating(asks: Sequence[Ask], context: Context, names: Iterable[str]) -> Figure:
        facts = {name: context.facts[name] for name in names}
        base, adapter = (
            extraction.share_stating([side[ask.key] for ask in asks], facts) for side in sides
        )
        return context.owner, base, adapter

    made: dict[str, list[Group]] = {"asked": [], "requests": []}
    for group in groups:
        made["asked"].append(
            by_user(
                stating(asks, context, [name])
                for context in group
                for name, asks in direct.items()
                if name in context.facts
            )
        )
        if everyday:
            made["requests"].append(
                by_user(stating(everyday, context, context.facts) for context in group)
            )
    return made


def continued(subject: Subject, groups: Groups) -> dict[str, list[Group]]:
    """``continued``: share of others' values that are less likely than the user's own, an AUC."""
    known: dict[str, dict[str, None]] = {}
    for context in (context for group in groups for context in group):
        for name, value in context.facts.items():
            known.setdefault(name, {})[value] = None
    values = {name: list(found) for name, found in known.items()}
    seed = subject.config.data.seed
    places = [extraction.places(group, values, seed) for group in groups]
    rows = [extraction.place_rows(subject.lm, found) for found in places]
    sides = _scored(subject, [row for some in rows for row in some], "facts in place")
    shares = [iter([extraction.above(logps) for logps in side]) for side in sides]
    return {
        "continued": [
            by_user((p.context.owner, next(shares[0]), next(shares[1])) for p in found)
            for found in places
        ]
    }


def texts(subject: Subject, groups: Groups) -> dict[str, list[Group]]:
    """``text``: mean log-prob a token of contexts' second halves after their first, nats."""
    flat = [row for group in groups for row in extraction.text_rows(subject.lm, group)]
    sides = _scored(subject, flat, "contexts' second halves")
    means = [
        iter([values[0] / len(row.responses[0]) for values, row in zip(side, flat, strict=True)])
        for side in sides
    ]
    return {
        "text": [
            by_user((c.owner, next(means[0]), next(means[1])) for c in group) for group in groups
        ]
    }


def all_of(subject: Subject, groups: Groups) -> dict[str, list[Group]]:
    """Every attack that can be tried on all groups, by name, a result a group.

    Of each group, ``memorization_contexts`` are scored; answers are searched for all users' values.
    """
    most, seed = subject.config.eval.memorization_contexts, subject.config.data.seed
    some = [drawn(group, most, seed) for group in groups]
    made = {**asked(subject, groups), **continued(subject, some), **texts(subject, some)}
    return {
        name: found
        for name, found in made.items()
        if len(found) == len(groups) and all(group.users for group in found)
    }
