"""Batches of known shapes, of random tokens, and the plain step that ours is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference.sampling import Job
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.memory_model import Dimensions

BETA = 0.1


@dataclass(frozen=True)
class Work:
    """The shape of a training step's pairs, without padding; in tokens.

    Attributes:
        pairs: chosen and rejected answer each.
        context: what all prompts start with.
        question: what each prompt has of its own.
        answer: of each answer.
    """

    pairs: int
    context: int
    question: int
    answer: int

    @property
    def distinct(self) -> int:
        """Tokens of all prefixes, none twice: what must be forwarded at least."""
        return self.context + self.pairs * (self.question + 2 * self.answer)

    @property
    def repeated(self) -> int:
        """Tokens of both full rows of each pair, but for the last, which predicts nothing."""
        return 2 * self.pairs * (self.context + self.question + self.answer - 1)

    def __str__(self) -> str:
        shared = f"one context of {self.context} + " if self.context else ""
        return f"{self.pairs} pairs, {shared}{self.question} + {self.answer} tokens"


WORKS = {"S1": Work(4, 0, 64, 64), "S2": Work(4, 0, 512, 64), "S3": Work(8, 1024, 32, 64)}


@dataclass(frozen=True)
class Answers:
    """Answers to sample: users with a context each, the same questions for all; in tokens."""

    users: int
    questions: int
    context: int
    question: int
    answer: int

    def __str__(self) -> str:
        return (
            f"{self.users} contexts of {self.context} tokens x {self.questions} questions of "
            f"{self.question}, answers of {self.answer} tokens at temperature 1"
        )

    def jobs(self, vocabulary: int) -> list[Job]:
        """Random tokens, the same ones for the same shape."""
        rng = np.random.default_rng(0)
        asked = rng.integers(3, vocabulary, (self.questions, self.question)).tolist()
        known = rng.integers(3, vocabulary, (self.users, self.context)).tolist()
        return [
            Job(f"{user}/{index}", tuple(context + question), str(user))
            for user, context in enumerate(known)
            for index, question in enumerate(asked)
        ]


SAMPLING = Answers(users=2, questions=8, context=512, question=24, answer=64)


def rows_of(work: Work, vocabulary: int) -> list[TrainingRow]:
    """Pairs of random tokens; the reference is no model's, so that the gradient is not zero."""
    rng = np.random.default_rng(0)
    context = rng.integers(3, vocabulary, work.context).tolist()
    questions = rng.integers(3, vocabulary, (work.pairs, work.question)).tolist()
    answers = rng.integers(3, vocabulary, (work.pairs, 2, work.answer)).tolist()
    group = "context" if context else ""
    return [
        TrainingRow(
            EncodedPair(
                str(i), tuple(context + questions[i]), (tuple(sides[0]), tuple(sides[1])), group
            ),
            (0.0, 0.0),
        )
        for i, sides in enumerate(answers)
    ]


def two_rows(rows: list[TrainingRow]) -> list[mx.array]:
    """Tokens [2p, t] of prompt and answer together, and answers [2p, a]; chosen come first."""
    encoded = [row.encoded for row in rows]
    full = [e.prompt_ids + e.responses[side] for side in (0, 1) for e in encoded]
    answers = [e.responses[side] for side in (0, 1) for e in encoded]
    return [mx.array(full), mx.array(answers)]


def plain_gradient(model: Any, arrays: list[mx.array]) -> Any:
    """Gradient of the mean DPO loss, with nothing shared and nothing cut: as it is mostly done.

    Both full rows of every pair go through the model's own ``__call__`` at once, logits of all
    positions included. The reference's log-probs are 0, as in ``rows_of``.

    Args:
        model: with LoRA, in training mode.
        arrays: of ``two_rows``.
    """
    tokens, answers = arrays
    pairs = tokens.shape[0] // 2

    def loss(model: Any) -> mx.array:
        logits = model(tokens[:, :-1])[:, -answers.shape[1] :]
        logps = token_logprobs(logits, answers).sum(axis=-1)  # nats [2p]
        margins = logps[:pairs] - logps[pairs:]
        return mx.mean(nn.softplus(-BETA * margins))

    return nn.value_and_grad(model, loss)(model)[1]


def step_flops(of: Dimensions, tokens: int, answers: int) -> float:
    """Of linear layers and head, forward and backward to activations; attention scores aside.

    Args:
        of: the model's dimensions.
        tokens: that go through the blocks.
        answers: whose logits are made.
    """
    heads = of.head_dim * (2 * of.heads + 2 * of.kv_heads)  # q, o; k, v
    block = of.hidden * (heads + 3 * of.intermediate)
    return 4.0 * (of.layers * block * tokens + of.vocabulary * of.hidden * answers)
