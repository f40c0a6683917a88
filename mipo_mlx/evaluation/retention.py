"""Nothing else worse, as far as answers tell: a study of base against adapter.

Answers with and without context: how far the adapter is from the base (KL), how natural its answers
are to the base (perplexity), what repeats, what is copied, what is made up. ``distractors`` has
irrelevant text and unrelated requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.core.kl import kl_k1, kl_k3
from mipo_mlx.data import builtin
from mipo_mlx.evaluation import distractors
from mipo_mlx.evaluation.comparison import Asked, titled_rows
from mipo_mlx.evaluation.metrics import Columns, self_bleu4
from mipo_mlx.evaluation.questions import known_values
from mipo_mlx.evaluation.responses import Part, ask_both, own_answers, rows_of, spread
from mipo_mlx.evaluation.study import Measured, Study, Subject
from mipo_mlx.generation.answers import Ask, encode
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.grading.facts import grade
from mipo_mlx.grading.ngrams import copied_share, longest_copy, longest_repeat, repeated_share
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.reference import group_of
from mipo_mlx.inference.scoring import score_tokens
from mipo_mlx.results import SIDES, Json, Metric, MetricRow
from mipo_mlx.results.findings import Distance, RetentionFindings
from mipo_mlx.stats.intervals import clustered_rate

N = 4  # words of an n-gram

DISTANCE = {
    "kl": Metric(
        "KL to the base", "KL(adapter, base) of an answer, k3 summed over tokens", "nats", 0
    ),
    "kl_k1": Metric("KL, plain", "the same, log-prob under the adapter less base", "nats", 0),
    "kl_per_token": Metric("KL a token", "k3, a mean over the tokens of an answer", "nats", 0),
}
TEXT = {
    "log_perplexity": Metric(
        "log-perplexity",
        "nats a token of an answer under the base, whoever wrote it; higher is less natural",
        "nats a token",
        -1,
    ),
    "repetition": Metric("repetition", "4-grams that stood in the answer before", "of 4-grams", -1),
    "longest_repeat": Metric("longest repeat", "longest run said twice", "words", -1),
    "copied": Metric("copying", "4-grams that stand in the context word for word", "of 4-grams", 0),
    "longest_copy": Metric("longest copy", "longest run that stands in the context", "words", 0),
    "length": Metric("length", "neither longer nor shorter is better", "tokens", 0),
    "fact_rate": Metric(
        "facts made up", "answers that state a known fact of anybody", "share of answers", -1
    ),
    "self_bleu4": Metric(
        "self-BLEU-4", "likeness of answers to different prompts", "BLEU, 0 to 100", 0
    ),
}


def alone_part(subject: Subject, count: int) -> Part:
    """The same prompts without any context; where they are few, several answers to each."""
    prompts = list({item.prompt.id: item.prompt for item in subject.items}.values())[:count]
    asks = [Ask(None, prompt, turn) for turn in range(count // len(prompts)) for prompt in prompts]
    return ask_both(subject, "alone", "without context", asks)


def token_logps(subject: Subject, part: Part) -> dict[str, list[np.ndarray]]:
    """Log-probs of the tokens of each answer, nats.

    Returns:
        ``base``: of the base's answers under the base; ``adapter``: of the adapter's answers under
        the adapter; ``crossed``: of the adapter's answers under the base.
    """
    generate = subject.config.generate
    prompts = [encode(subject.lm, ask.context, ask.prompt, generate) for ask in part.asks]
    groups = [group_of(ask.context.id if ask.context else "") for ask in part.asks]
    ids = {side: [answer.token_ids for answer in part.answers[side]] for side in SIDES}
    wanted: dict[str, list[tuple[tuple[int, ...], ...]]] = {
        "base": [tuple(both) for both in zip(ids["base"], ids["adapter"], strict=True)],
        "adapter": [(own,) for own in ids["adapter"]],
    }
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for side in SIDES:
        made = [Row(*parts) for parts in zip(prompts, wanted[side], groups, strict=True)]
        stage = f"{side}: tokens {part.words}"
        done: list[tuple[np.ndarray, ...]] = []
        with subject.side(side) as lm:
            for row in score_tokens(lm, made):
                done.append(row)
                subject.on_progress(stage, len(done), len(made))
        found[side] = done
    return {
        "base": [row[0] for row in found["base"]],
        "adapter": [row[0] for row in found["adapter"]],
        "crossed": [row[1] for row in found["base"]],
    }


def distance_columns(logps: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Columns]:
    """KL of the adapter to the base, and log-perplexity of both under the base, by side."""
    pairs = list(zip(logps["adapter"], logps["crossed"], strict=True))
    k3 = np.array([kl_k3(policy, reference) for policy, reference in pairs])
    adapter = {
        "kl": k3,
        "kl_k1": np.array([kl_k1(policy, reference) for policy, reference in pairs]),
        "kl_per_token": k3 / [len(policy) for policy, _ in pairs],
    }
    base = {name: np.zeros(len(pairs)) for name in adapter}
    for columns, name in ((base, "base"), (adapter, "crossed")):
        columns["log_perplexity"] = np.array([-float(np.mean(logp)) for logp in logps[name]], float)
    return {"base": base, "adapter": adapter}


def text_columns(part: Part, side: str, known: frozenset[str]) -> Columns:
    """What the texts of one side tell by themselves; ``known`` are values of everybody's facts."""
    texts = part.texts(side)
    columns: Columns = {
        "repetition": np.array([repeated_share(text, N) for text in texts]),
        "longest_repeat": np.array([longest_repeat(text) for text in texts], float),
    }
    if part.name == "context":
        sources = [ask.context.text if ask.context else "" for ask in part.asks]
        pairs = list(zip(texts, sources, strict=True))
        columns["copied"] = np.array([copied_share(text, source, N) for text, source in pairs])
        columns["longest_copy"] = np.array([longest_copy(*pair) for pair in pairs], float)
    else:
        columns["length"] = np.array([len(a.token_ids) for a in part.answers[side]], float)
        if known:
            columns["fact_rate"] = np.array([grade(t, {}, known).wrong for t in texts], float)
    return columns


def measure_part(
    subject: Subject, part: Part, known: frozenset[str]
) -> tuple[dict[str, MetricRow], dict[str, Columns]]:
    """Rows of a part, and the columns behind them by side.

    Self-BLEU alone has a value a prompt, of the first answer to each, not a value an answer.
    """
    columns = distance_columns(token_logps(subject, part))
    for side in SIDES:
        columns[side].update(text_columns(part, side, known))
    figures = DISTANCE | TEXT
    asked = Asked(f"retention/{part.name}", part.words, part.items)
    rows = titled_rows(asked, columns, figures, subject.config)
    firsts = [index for index, ask in enumerate(part.asks) if not ask.sample]
    if subject.inputs.held_contexts and part.name == "alone" and len(firsts) > 1:
        bleu = {
            side: {"self_bleu4": self_bleu4([part.texts(side)[index] for index in firsts])}
            for side in SIDES
        }
        for side in SIDES:
            columns[side] |= bleu[side]
        some = replace(asked, items=[part.items[index] for index in firsts])
        rows |= titled_rows(some, bleu, figures, subject.config)
    return rows, columns


def distance(part: Part) -> Distance:
    """Answers that are word for word the base's, and the 95% interval of their share."""
    pairs = zip(part.texts("base"), part.texts("adapter"), strict=True)
    same = np.array([base == adapter for base, adapter in pairs], float)
    interval = clustered_rate(same, [item.cluster for item in part.items])
    return Distance(part.name, part.words, len(part.asks), int(same.sum()), interval)


class RetentionStudy(Study):
    """``--retention`` as a study; what does not fit the model's window is left out and counted."""

    name = "retention"

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        self.config = config
        self.known = known_values(inputs.train_contexts + inputs.held_contexts)

    @property
    def digest(self) -> str:
        """sha256 over the texts that are added or asked."""
        sha = hashlib.sha256()
        for path in (builtin.PARAGRAPHS, builtin.NEUTRAL):
            sha.update(path.read_bytes())
        return sha.hexdigest()

    def measure(self, subject: Subject) -> Measured:
        """Metrics ``retention/PART/FIGURE``."""
        count = min(self.config.eval.retention_answers, len(subject.items))
        items = spread(subject.items, 4 * count)  # these cost no sampling
        own = own_answers(subject, [Ask(item.context, item.prompt) for item in items])
        parts = [alone_part(subject, count), own] if own.name == "context" else [own]
        metrics: dict[str, MetricRow] = {}
        columns: dict[str, dict[str, Columns]] = {}
        for part in parts:
            rows, columns[part.name] = measure_part(subject, part, self.known)
            metrics |= rows
        sampled = parts[:-1]
        kinds = distractors.measure(subject, parts[0], self.known, count)
        for kind in kinds:
            metrics |= kind.metrics
            columns |= kind.columns
            sampled += kind.parts
        options = self.config.generate
        return Measured(
            RetentionFindings(
                parts=[distance(part) for part in parts],
                distractions=[kind.findings for kind in kinds],
                temperature=options.temperature,
                top_p=options.top_p,
                facts_missing=not self.known and self.config.data.objective == "context",
            ),
            metrics,
            _listed(columns),
            {"retention.jsonl": rows_of(sampled)},
        )


def _listed(columns: Mapping[str, Mapping[str, Columns]]) -> Json:
    """Columns as ``eval.json`` keeps them, a value an answer."""
    return {
        part: {
            side: {name: column.tolist() for name, column in own.items()}
            for side, own in sides.items()
        }
        for part, sides in columns.items()
    }


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> RetentionStudy | None:
    """The study of ``--retention``, or None without it."""
    return RetentionStudy(config, inputs) if config.eval.retention else None
