"""What irrelevant text does to answers, and what unrelated requests bring out.

A paragraph about nobody is added before or after a user's context, or stands there alone; requests
that have nothing to do with a user are asked with the user's context. The texts are English ones of
``data.builtin``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mipo_mlx.config import GenerateConfig
from mipo_mlx.data import builtin
from mipo_mlx.data.readers import read_prompts
from mipo_mlx.errors import DataError
from mipo_mlx.evaluation.comparison import Asked, titled_rows
from mipo_mlx.evaluation.metrics import Columns
from mipo_mlx.evaluation.responses import Part, ask_both, own_answers, spread
from mipo_mlx.evaluation.study import Subject
from mipo_mlx.generation.answers import Ask, encode
from mipo_mlx.grading.facts import grade, stated
from mipo_mlx.grading.ngrams import copied_share
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.reference import group_of
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import SIDES, Metric, MetricRow
from mipo_mlx.results.findings import Distraction
from mipo_mlx.types import Context

SHIFT = "nats a token by which an answer's log-prob moves, up or down, when the paragraph is added"
FIGURES = {
    "own_context_change": Metric(
        "change of the own context rate",
        "share of answers with a fact of their user and none of another's, less that without it",
        "difference of shares",
        1,
    ),
    "wrong_fact_change": Metric(
        "change of the wrong fact rate",
        "share of answers with a fact of somebody else, less that without it",
        "difference of shares",
        -1,
    ),
    "unmoved": Metric("unmoved answers", "word for word as without it", "share of answers", 1),
    "logp_shift": Metric("move of log-probs", SHIFT, "nats a token", -1),
    "own_fact_rate": Metric(
        "facts stated unasked", "answers that state a fact of their user", "share of answers", -1
    ),
    "fact_rate": Metric(
        "facts made up",
        "answers that state a fact of anybody but the user",
        "share of answers",
        -1,
    ),
    "copied": Metric(
        "copying", "4-grams that stand in the context word for word", "of 4-grams", -1
    ),
}


@dataclass(frozen=True)
class Measured:
    """What one kind of request gives; no columns where none fits the model's window.

    Attributes:
        findings: what there is to tell beyond the rows.
        metrics: rows by full name.
        columns: by name of the part, then by side.
        parts: answers that were sampled.
    """

    findings: Distraction
    metrics: Mapping[str, MetricRow] = field(default_factory=dict)
    columns: Mapping[str, dict[str, Columns]] = field(default_factory=dict)
    parts: Sequence[Part] = ()


def _measured(
    subject: Subject, findings: Distraction, columns: dict[str, Columns], plain: Part, part: Part
) -> Measured:
    """Rows of a part whose answers stand beside those of ``plain``."""
    asked = Asked(f"retention/{part.name}", part.words, plain.items)
    rows = titled_rows(asked, columns, FIGURES, subject.config)
    return Measured(findings, rows, {part.name: columns}, [part])


def distracted(context: Context | None, paragraph: str, *, before: bool) -> Context:
    """A context with an irrelevant paragraph; its id, and so all random numbers, stay as they are.

    Without a context, the paragraph alone under the id of none.
    """
    if context is None:
        return Context("", paragraph)
    parts = (paragraph, context.text) if before else (context.text, paragraph)
    return replace(context, text="\n\n".join(parts))


def fitting(lm: LanguageModel, asks: Sequence[Ask], generate: GenerateConfig) -> list[bool]:
    """Whether each fits the model's window."""
    fits = []
    for ask in asks:
        try:
            encode(lm, ask.context, ask.prompt, generate)
        except DataError:
            fits.append(False)
        else:
            fits.append(True)
    return fits


def added(subject: Subject, asks: Sequence[Ask]) -> tuple[list[Ask], list[Ask]]:
    """Requests whose context has room for a paragraph: as they are, and with one each, seeded."""
    rng = random.Random(f"{subject.config.data.seed}:paragraphs")
    paragraphs = [prompt.text for prompt in read_prompts(builtin.PARAGRAPHS)]
    rng.shuffle(paragraphs)
    more = [
        ask._replace(
            context=distracted(
                ask.context, paragraphs[index % len(paragraphs)], before=rng.random() < 0.5
            )
        )
        for index, ask in enumerate(asks)
    ]
    fits = fitting(subject.lm, more, subject.config.generate)
    kept = [pair for pair, fit in zip(zip(asks, more, strict=True), fits, strict=True) if fit]
    return [plain for plain, _ in kept], [other for _, other in kept]


def unrelated(subject: Subject, count: int) -> list[Ask]:
    """Requests that have nothing to do with a user, each with the context of one in turn."""
    users = list({i.context.id: i.context for i in subject.items if i.context}.values())
    requests = [replace(p, id=f"neutral/{p.id}") for p in read_prompts(builtin.NEUTRAL)]
    random.Random(f"{subject.config.data.seed}:neutral").shuffle(requests)
    return [
        Ask(users[turn % len(users)], requests[turn % len(requests)])
        for turn in range(min(count, max(len(users), len(requests))))
    ]


def shifts(subject: Subject, plain: Part, asks: Sequence[Ask]) -> dict[str, Columns]:
    """Nats a token by which each answer of ``plain`` moves under ``asks`` instead, by side."""
    generate = subject.config.generate
    columns: dict[str, Columns] = {}
    for side in SIDES:
        ids = [answer.token_ids for answer in plain.answers[side]]
        made = [
            Row(
                encode(subject.lm, ask.context, ask.prompt, generate),
                (own,),
                group_of(ask.context.id if ask.context else ""),
            )
            for kind in (plain.asks, asks)
            for ask, own in zip(kind, ids, strict=True)
        ]
        found, stage = [], f"{side}: with and without a paragraph"
        with subject.side(side) as lm:
            for (logp,) in score(lm, made):
                found.append(logp)
                subject.on_progress(stage, len(found), len(made))
        before, after = np.array(found).reshape(2, -1)
        lengths = np.array([len(own) for own in ids])
        columns[side] = {"logp_shift": np.abs(after - before) / lengths}
    return columns


def _graded(part: Part, side: str, known: frozenset[str]) -> np.ndarray | None:
    """Own-context and wrong-fact of each answer [2, n], or None where a user has no facts."""
    facts = [ask.context.facts if ask.context else {} for ask in part.asks]
    if not all(facts):
        return None
    grades = [grade(t, own, known) for t, own in zip(part.texts(side), facts, strict=True)]
    return np.array([[g.own for g in grades], [g.wrong for g in grades]], float)


def _paragraph_columns(
    subject: Subject, plain: Part, more: Part, known: frozenset[str]
) -> dict[str, Columns]:
    columns = shifts(subject, plain, more.asks)
    for side in SIDES:
        texts = zip(plain.texts(side), more.texts(side), strict=True)
        columns[side]["unmoved"] = np.array([one == other for one, other in texts], float)
        before, after = _graded(plain, side, known), _graded(more, side, known)
        if before is not None and after is not None:
            columns[side]["own_context_change"] = after[0] - before[0]
            columns[side]["wrong_fact_change"] = after[1] - before[1]
    return columns


def _paragraph_rates(plain: Part, more: Part, known: frozenset[str]) -> dict[str, Sequence[float]]:
    """Rates of base and adapter, without and with a paragraph; none without known facts."""
    graded = [_graded(part, side, known) for side in SIDES for part in (plain, more)]
    whole = [one for one in graded if one is not None]
    if len(whole) < len(graded):
        return {}
    names = ("own context rate", "wrong fact rate")
    return {name: [float(one[at].mean()) for one in whole] for at, name in enumerate(names)}


def _unrelated_columns(part: Part, side: str, known: frozenset[str]) -> Columns:
    contexts = [ask.context for ask in part.asks]
    pairs = [(text, c) for text, c in zip(part.texts(side), contexts, strict=True) if c]
    columns = {"copied": np.array([copied_share(text, c.text) for text, c in pairs])}
    if all(c.facts for _, c in pairs):
        own = [bool(stated(text, c.facts)) for text, c in pairs]
        columns["own_fact_rate"] = np.array(own, float)
        columns["fact_rate"] = np.array([grade(t, c.facts, known).wrong for t, c in pairs], float)
    return columns


def _beside(subject: Subject, known: frozenset[str], count: int) -> Measured:
    """A paragraph before or after the user's context."""
    name, words = "distracted", "with a paragraph beside the context"
    items = spread([item for item in subject.items if item.context], count)
    kept, asks = added(subject, [Ask(item.context, item.prompt) for item in items])
    left_out = len(items) - len(kept)
    if not kept:
        return Measured(Distraction(name, words, 0, left_out, {}))
    plain = own_answers(subject, kept)
    more = ask_both(subject, name, words, asks)
    columns = _paragraph_columns(subject, plain, more, known)
    rates = _paragraph_rates(plain, more, known)
    findings = Distraction(name, words, len(kept), left_out, rates)
    return _measured(subject, findings, columns, plain, more)


def _instead(subject: Subject, alone: Part, known: frozenset[str], count: int) -> Measured:
    """The paragraph alone, where a context would stand."""
    name, words = "paragraph", "with a paragraph for a context"
    first = [ask for ask in alone.asks if not ask.sample][:count]
    kept, asks = added(subject, first)
    left_out = len(first) - len(kept)
    if not kept:
        return Measured(Distraction(name, words, 0, left_out, {}))
    plain = alone.only(kept)
    more = ask_both(subject, name, words, asks)
    columns = shifts(subject, plain, asks)
    for side in SIDES:
        texts = more.texts(side)
        same = zip(plain.texts(side), texts, strict=True)
        columns[side]["unmoved"] = np.array([one == other for one, other in same], float)
        if known:
            columns[side]["fact_rate"] = np.array([grade(t, {}, known).wrong for t in texts], float)
    findings = Distraction(name, words, len(kept), left_out, {})
    return _measured(subject, findings, columns, plain, more)


def _unasked(subject: Subject, known: frozenset[str], count: int) -> Measured:
    """Requests that have nothing to do with the user."""
    name, words = "unrelated", "to unrelated requests"
    wanted = unrelated(subject, count)
    fits = fitting(subject.lm, wanted, subject.config.generate)
    asks = [ask for ask, fit in zip(wanted, fits, strict=True) if fit]
    left_out = len(wanted) - len(asks)
    if not asks:
        return Measured(Distraction(name, words, 0, left_out, {}))
    part = ask_both(subject, name, words, asks)
    columns = {side: _unrelated_columns(part, side, known) for side in SIDES}
    findings = Distraction(name, words, len(asks), left_out, {})
    return _measured(subject, findings, columns, part, part)


def measure(subject: Subject, alone: Part, known: frozenset[str], count: int) -> list[Measured]:
    """All three, of which two need users.

    Args:
        subject: what is looked at.
        alone: answers without context.
        known: values of everybody's facts.
        count: most answers of a kind; half as many with a paragraph alone.
    """
    found = [_instead(subject, alone, known, max(1, count // 2))]
    if any(item.context for item in subject.items):
        found += [_beside(subject, known, count), _unasked(subject, known, count)]
    return found
