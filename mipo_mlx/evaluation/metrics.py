"""Step 3: base against adapter, on users and prompts never trained on.

Answers of both are sampled with the same seeds. Each model's answers are scored under the right
and the wrong conditions of its group by the model that wrote them: the diagonal is right, the rest
is the swapped-context control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from sacrebleu.metrics.bleu import BLEU

from mipo_mlx.config import EvalConfig, GenerateConfig
from mipo_mlx.core.mutual_information import choice_entropy, context_accuracy, plug_in_pmi
from mipo_mlx.generation.pairs import AnswerJournal, Ask, answer_key, encode, sample
from mipo_mlx.grading import benchmark_prompts
from mipo_mlx.grading.facts import grade, parse_choice, parse_number
from mipo_mlx.grading.final_answer import final_answer, is_right, offered
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.reference import group_of
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import Context, Progress, Prompt, Response

SELF_BLEU_SAMPLE = 64  # answers; self-BLEU is quadratic in them


@dataclass(frozen=True)
class Item:
    """One condition to answer under: a context (or none) and a prompt."""

    context: Context | None
    prompt: Prompt

    @property
    def key(self) -> str:
        return answer_key(self.context.id if self.context else "", self.prompt.id)

    @property
    def cluster(self) -> str:
        """Unit of resampling: the user, or the prompt where there is no user."""
        return self.context.owner if self.context else self.prompt.id


@dataclass(frozen=True)
class Group:
    """Conditions that are each other's wrong ones.

    Attributes:
        items: each is answered under.
        others: further wrong contexts of the first item's prompt, under which nothing is answered.
    """

    items: list[Item]
    others: list[Context] = field(default_factory=list)

    @property
    def conditions(self) -> list[Item]:
        """The items, then what else their answers are scored under."""
        return self.items + [Item(context, self.items[0].prompt) for context in self.others]


Columns = dict[str, np.ndarray]

UNITS = {
    "personalization/own_context_rate": "share of answers",
    "personalization/wrong_fact_rate": "share of answers",
    "information/pmi": "nats",
    "information/context_accuracy": "share of answers",
    "control/swapped_context_gap": "nats",
    "diversity/self_bleu4": "BLEU, 0 to 100",
    "length/response_tokens": "tokens",
    "reasoning/accuracy": "share of answers",
    "reasoning/form_rate": "share of answers",
    "reasoning/choice_entropy": "nats",
}


def context_groups(
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    config: EvalConfig,
    foils: Sequence[Context] = (),
) -> list[Group]:
    """Groups of M users who answer the same prompt; prompts rotate from group to group.

    Every group has between 2 and 2 M - 1 users, at most one context of each; where there are no
    two users left for one, contexts of others and ``foils`` stand in as wrong ones.
    """
    users = list(contexts)
    if config.eval_contexts:
        users = users[: config.eval_contexts]
    each = config.eval_prompts_per_context or len(prompts)
    each = min(each, len(prompts))
    groups = []
    for index, team in enumerate(_teams(users, config.candidates)):
        others: list[Context] = []
        if len(team) == 1:
            strangers = [c for c in [*users, *foils] if c.owner != team[0].owner]
            others = list({c.owner: c for c in strangers}.values())[: config.candidates - 1]
        for turn in range(each):
            prompt = prompts[(index * each + turn) % len(prompts)]
            groups.append(Group([Item(user, prompt) for user in team], others))
    return groups


def _teams(contexts: Sequence[Context], size: int) -> list[list[Context]]:
    """Contexts in teams of ``size`` different users; the last of a round takes what is left over.

    The first round has one context of each user, the second another of those who have more.
    """
    rounds: list[list[Context]] = []
    seen: dict[str, int] = {}
    for context in contexts:
        turn = seen[context.owner] = seen.get(context.owner, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(context)
    teams = []
    for members in rounds:
        width = min(size, len(members))
        starts = range(0, len(members) - width + 1, width)
        teams += [members[start : start + width] for start in starts]
        teams[-1] += members[starts[-1] + width :]
    return teams


def prompt_groups(prompts: Sequence[Prompt], config: EvalConfig) -> list[Group]:
    """Groups of M prompts without context, each the wrong condition of the others' answers."""
    size = min(config.candidates, len(prompts))
    starts = list(range(0, len(prompts) - size + 1, size))
    teams = [list(prompts[start : start + size]) for start in starts]
    teams[-1] += prompts[starts[-1] + size :]
    return [Group([Item(None, prompt) for prompt in team]) for team in teams]


def known_values(contexts: Sequence[Context]) -> frozenset[str]:
    """Values of all facts of all contexts."""
    return frozenset(value for context in contexts for value in context.facts.values())


def self_bleu4(texts: Sequence[str]) -> np.ndarray:
    """BLEU-4 of each text against all the others (sacrebleu, exponential smoothing), 0 to 100."""
    metric = BLEU(effective_order=True)
    scores = []
    for index, text in enumerate(texts):
        others = [other for place, other in enumerate(texts) if place != index]
        scores.append(metric.sentence_score(text, others).score if others else 0.0)
    return np.array(scores)


def _matrix_columns(
    lm: LanguageModel,
    groups: Sequence[Group],
    answers: Mapping[str, Response],
    generate: GenerateConfig,
    on_progress: Progress,
    stage: str,
) -> Columns:
    """PMI, context accuracy and the swapped gap of every answer, in the order of the groups."""
    rows = [
        Row(
            encode(lm, item.context, item.prompt, generate),
            tuple(answers[other.key].token_ids for other in group.items),
            group_of(item.context.id if item.context else ""),
        )
        for group in groups
        for item in group.conditions
    ]
    scores = []
    on_progress(stage, 0, len(rows))
    for row in score(lm, rows):
        scores.append(row)
        on_progress(stage, len(scores), len(rows))
    columns: dict[str, list[float]] = {"pmi": [], "accuracy": [], "gap": []}
    start = 0
    for group in groups:
        size = len(group.conditions)
        matrix = mx.array(scores[start : start + size]).T  # [answer, condition]
        own = mx.arange(len(group.items))
        start += size
        diagonal = matrix[own, own]
        others = (matrix.sum(axis=1) - diagonal) / (size - 1)
        columns["pmi"] += np.array(plug_in_pmi(matrix, own)).tolist()
        columns["accuracy"] += np.array(context_accuracy(matrix, own)).tolist()
        columns["gap"] += np.array(diagonal - others).tolist()
    return {
        "information/pmi": np.array(columns["pmi"]),
        "information/context_accuracy": np.array(columns["accuracy"]),
        "control/swapped_context_gap": np.array(columns["gap"]),
    }


def letter_rows(
    lm: LanguageModel, prompts: Sequence[Prompt], generate: GenerateConfig
) -> list[Row]:
    """A row a choice problem: its prompt, and "The answer is: L" for every label offered."""
    rows = []
    for prompt in prompts:
        letters = tuple(
            tuple(lm.tokenizer.encode(benchmark_prompts.claim(label), add_special_tokens=False))
            for label, _ in offered(prompt)
        )
        rows.append(Row(encode(lm, None, prompt, generate), letters, group_of("")))
    return rows


def _choice_entropies(
    lm: LanguageModel, items: Sequence[Item], generate: GenerateConfig
) -> np.ndarray:
    """Entropy over the offered labels of "The answer is: L", for choice items; nats."""
    chosen = [item.prompt for item in items if item.prompt.kind == "choice"]
    rows = letter_rows(lm, chosen, generate)
    return np.array([choice_entropy(mx.array([row])).item() for row in score(lm, rows)])


def _text_columns(
    items: Sequence[Item], answers: Mapping[str, Response], known: frozenset[str]
) -> Columns:
    texts = [answers[item.key].text for item in items]
    columns: Columns = {
        "length/response_tokens": np.array([len(answers[i.key].token_ids) for i in items], float),
        "diversity/self_bleu4": self_bleu4(texts[:SELF_BLEU_SAMPLE]),
    }
    graded = [
        grade(text, item.context.facts, known)
        for item, text in zip(items, texts, strict=True)
        if item.context and item.context.facts
    ]
    if graded and len(graded) == len(items):
        columns["personalization/own_context_rate"] = np.array([g.own for g in graded], float)
        columns["personalization/wrong_fact_rate"] = np.array([g.wrong for g in graded], float)
    checked = [(i, t) for i, t in zip(items, texts, strict=True) if i.prompt.answer is not None]
    if checked and len(checked) == len(items):
        form = {"number": parse_number, "choice": parse_choice}
        kept = [form[item.prompt.kind](text) is not None for item, text in checked]
        right = [is_right(i.prompt, final_answer(i.prompt, answers[i.key])) for i in items]
        columns["reasoning/form_rate"] = np.array(kept, float)
        columns["reasoning/accuracy"] = np.array(right, float)
    return columns


def measure(
    lm: LanguageModel,
    groups: Sequence[Group],
    known: frozenset[str],
    generate: GenerateConfig,
    *,
    seed: int,
    on_progress: Progress,
    who: str,
    journal: AnswerJournal | None = None,
) -> tuple[Columns, dict[str, Response]]:
    """Per-answer columns of one model, by metric name, and its answers."""
    items = [item for group in groups for item in group.items]
    wanted = [Ask(item.context, item.prompt) for item in items]
    stage = f"{who}: sample answers"
    answers = sample(lm, wanted, generate, seed, on_progress, stage, journal)
    return columns_of(lm, groups, answers, known, generate, on_progress, who), answers


def columns_of(
    lm: LanguageModel,
    groups: Sequence[Group],
    answers: Mapping[str, Response],
    known: frozenset[str],
    generate: GenerateConfig,
    on_progress: Progress,
    who: str,
) -> Columns:
    """Per-answer columns of given answers, by metric name; ``lm`` scores them."""
    items = [item for group in groups for item in group.items]
    columns = _text_columns(items, answers, known)
    columns.update(
        _matrix_columns(lm, groups, answers, generate, on_progress, f"{who}: score answers")
    )
    if any(item.prompt.kind == "choice" for item in items):
        columns["reasoning/choice_entropy"] = _choice_entropies(lm, items, generate)
    return columns


def values(base: Columns, adapter: Columns) -> dict[str, dict[str, list[float]]]:
    """What each metric is the mean of: a value an answer, in the order of the items."""
    return {
        name: {
            side: [float(f"{value:.6g}") for value in columns[name]]
            for side, columns in (("base", base), ("adapter", adapter))
        }
        for name in UNITS
        if name in base
    }


def examples(
    items: Sequence[Item], base: Mapping[str, Response], adapter: Mapping[str, Response]
) -> dict[str, Any]:
    """Three answers side by side, evenly spaced among those that changed, and how many did."""
    changed = [item for item in items if base[item.key].text != adapter[item.key].text]
    shown = (changed or list(items))[:: max(1, len(changed or items) // 3)][:3]
    return {
        "changed": len(changed),
        "answers": len(items),
        "examples": [
            {
                "context_id": item.context.id if item.context else "",
                "facts": dict(item.context.facts) if item.context else {},
                "prompt": item.prompt.text,
                "base": base[item.key].text,
                "adapter": adapter[item.key].text,
            }
            for item in shown
        ],
    }


def answer_rows(
    items: Sequence[Item], base: Mapping[str, Response], adapter: Mapping[str, Response]
) -> list[dict[str, str]]:
    """Both answers to everything asked, with what they were asked under."""
    return [
        {
            "context_id": item.context.id if item.context else "",
            "user": item.context.owner if item.context else "",
            "prompt_id": item.prompt.id,
            "context": item.context.text if item.context else "",
            "prompt": item.prompt.text,
            "base": base[item.key].text,
            "adapter": adapter[item.key].text,
        }
        for item in {item.key: item for item in items}.values()
    ]
