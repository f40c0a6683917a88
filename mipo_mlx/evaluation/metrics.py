"""Step 3: base against adapter, on users and prompts never trained on.

Answers of both are sampled with the same seeds. Each model's answers are scored under the right
and the wrong conditions of its group by the model that wrote them: the diagonal is right, the rest
is the swapped-context control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np
from sacrebleu.metrics.bleu import BLEU

from mipo_mlx.config import GenerateConfig
from mipo_mlx.core.mutual_information import choice_entropy, context_accuracy, plug_in_pmi
from mipo_mlx.evaluation.questions import Item, Questions
from mipo_mlx.generation.answers import AnswerJournal, Ask, encode, sample
from mipo_mlx.grading import benchmark_prompts
from mipo_mlx.grading.facts import grade
from mipo_mlx.grading.final_answer import final_answer, is_right, offered
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.reference import group_of
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import METRICS, Example
from mipo_mlx.types import Prompt, Response

SELF_BLEU_SAMPLE = 64  # answers; self-BLEU is quadratic in them
Columns = dict[str, np.ndarray]


def self_bleu4(texts: Sequence[str]) -> np.ndarray:
    """BLEU-4 of each text against all the others (sacrebleu, exponential smoothing), 0 to 100."""
    metric = BLEU(effective_order=True)
    scores = []
    for index, text in enumerate(texts):
        others = [other for place, other in enumerate(texts) if place != index]
        scores.append(metric.sentence_score(text, others).score if others else 0.0)
    return np.array(scores)


def _matrix_columns(
    lm: LanguageModel, asked: Questions, answers: Mapping[str, Response], stage: str
) -> Columns:
    """PMI, context accuracy and the swapped gap of every answer, in the order of the groups."""
    rows = [
        Row(
            encode(lm, item.context, item.prompt, asked.generate),
            tuple(answers[other.key].token_ids for other in group.items),
            group_of(item.context.id if item.context else ""),
        )
        for group in asked.groups
        for item in group.conditions
    ]
    scores = []
    asked.on_progress(stage, 0, len(rows))
    for row in score(lm, rows):
        scores.append(row)
        asked.on_progress(stage, len(scores), len(rows))
    columns: dict[str, list[float]] = {"pmi": [], "accuracy": [], "gap": []}
    start = 0
    for group in asked.groups:
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
    if items and all(item.prompt.answer is not None for item in items):
        finals = [final_answer(item.prompt, answers[item.key]) for item in items]
        right = [is_right(item.prompt, said) for item, said in zip(items, finals, strict=True)]
        columns["reasoning/form_rate"] = np.array([said is not None for said in finals], float)
        columns["reasoning/accuracy"] = np.array(right, float)
    return columns


def measure(
    lm: LanguageModel, asked: Questions, who: str, journal: AnswerJournal | None = None
) -> tuple[Columns, dict[str, Response]]:
    """Per-answer columns of one model, by metric name, and its answers.

    Args:
        lm: as base or as adapter.
        asked: of both.
        who: starts the names of stages.
        journal: keeps the answers.
    """
    wanted = [Ask(item.context, item.prompt) for item in asked.items]
    stage = f"{who}: sample answers"
    answers = sample(lm, wanted, asked.generate, asked.seed, asked.on_progress, stage, journal)
    return columns_of(lm, asked, answers, who), answers


def columns_of(
    lm: LanguageModel, asked: Questions, answers: Mapping[str, Response], who: str
) -> Columns:
    """Per-answer columns of given answers, by metric name; ``lm`` scores them."""
    columns = _text_columns(asked.items, answers, asked.known)
    columns.update(_matrix_columns(lm, asked, answers, f"{who}: score answers"))
    if any(item.prompt.kind == "choice" for item in asked.items):
        columns["reasoning/choice_entropy"] = _choice_entropies(lm, asked.items, asked.generate)
    return columns


def values(base: Columns, adapter: Columns) -> dict[str, dict[str, list[float]]]:
    """What each metric is the mean of: a value an answer, in the order of the items."""
    return {
        name: {
            side: [float(f"{value:.6g}") for value in columns[name]]
            for side, columns in (("base", base), ("adapter", adapter))
        }
        for name in METRICS
        if name in base
    }


def examples(
    items: Sequence[Item], base: Mapping[str, Response], adapter: Mapping[str, Response]
) -> tuple[int, list[Example]]:
    """How many answers changed, and three side by side, evenly spaced among these."""
    changed = [item for item in items if base[item.key].text != adapter[item.key].text]
    shown = (changed or list(items))[:: max(1, len(changed or items) // 3)][:3]
    return len(changed), [
        Example(
            context_id=item.context.id if item.context else "",
            facts=dict(item.context.facts) if item.context else {},
            prompt=item.prompt.text,
            base=base[item.key].text,
            adapter=adapter[item.key].text,
        )
        for item in shown
    ]


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
