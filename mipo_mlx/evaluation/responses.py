"""Answers of both models to the same requests, sampled for a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mipo_mlx.evaluation.questions import Item
from mipo_mlx.evaluation.study import Subject
from mipo_mlx.generation.answers import Ask, sample
from mipo_mlx.results import SIDES
from mipo_mlx.types import Response


@dataclass(frozen=True)
class Part:
    """Answers to the same requests, in their order.

    Attributes:
        name: in the names of metrics.
        words: what the requests are, within a sentence.
        asks: the requests.
        answers: of ``base`` and ``adapter`` [n].
    """

    name: str
    words: str
    asks: Sequence[Ask]
    answers: Mapping[str, Sequence[Response]]

    @property
    def items(self) -> list[Item]:
        return [Item(ask.context, ask.prompt) for ask in self.asks]

    def only(self, asks: Sequence[Ask]) -> Part:
        """The part of these requests."""
        place = {ask.key: index for index, ask in enumerate(self.asks)}
        answers = {
            side: [told[place[ask.key]] for ask in asks] for side, told in self.answers.items()
        }
        return Part(self.name, self.words, asks, answers)

    def texts(self, side: str) -> list[str]:
        """What ``base`` or ``adapter`` said [n]."""
        return [answer.text for answer in self.answers[side]]


def ask_both(subject: Subject, name: str, words: str, asks: Sequence[Ask]) -> Part:
    """Sample an answer of both models to each request.

    Random numbers are those of eval's own answers to the same ids, so that what differs is due to
    what was changed in a context or model.
    """
    answers = {}
    for side in SIDES:
        stage = f"{side}: {words}"
        with subject.side(side) as lm:
            found = sample(
                lm,
                asks,
                subject.config.generate,
                subject.config.data.seed + 1,
                subject.on_progress,
                stage,
                subject.journal(stage),
            )
        answers[side] = [found[ask.key] for ask in asks]
    return Part(name, words, asks, answers)


def own_answers(subject: Subject, asks: Sequence[Ask]) -> Part:
    """Answers that eval itself sampled; named by whether there are contexts."""
    with_context = any(ask.context for ask in asks)
    return Part(
        "context" if with_context else "alone",
        "with context" if with_context else "without context",
        asks,
        {side: [subject.answers[side][ask.key] for ask in asks] for side in SIDES},
    )


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` different items, of as many users as can be: one of each user in turn.

    Users begin at different places of their own items, so that neighbours have different prompts.
    """
    owned: dict[str, dict[str, Item]] = {}
    for item in items:
        owned.setdefault(item.cluster, {})[item.key] = item
    members = [list(own.values()) for own in owned.values()]
    longest = max(map(len, members), default=0)
    ordered = [
        own[(turn + place) % len(own)]
        for turn in range(longest)
        for place, own in enumerate(members)
        if turn < len(own)
    ]
    return ordered[:count]


def rows_of(parts: Sequence[Part]) -> list[dict[str, str]]:
    """Both answers to everything asked, as rows of a file."""
    return [
        {
            "part": part.name,
            "context_id": ask.context.id if ask.context else "",
            "prompt_id": ask.prompt.id,
            "prompt": ask.prompt.text,
            "base": base,
            "adapter": adapter,
        }
        for part in parts
        for ask, base, adapter in zip(
            part.asks, part.texts("base"), part.texts("adapter"), strict=True
        )
    ]
