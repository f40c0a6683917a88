"""Losses as objects: which answers a row needs, and the loss over their log-probs.

loss      object    a row holds                                        answers scored under
--------  --------  -------------------------------------------------  ------------------------
sigmoid   DPO       chosen, rejected                                   its own prompt
ipo       IPO       likewise
hinge     Hinge     likewise
sft       SFT       likewise; rejected for the metrics alone
mipo      MIPO      chosen, and all rejected answers it was paired to  its own prompt
infonce   InfoNCE   chosen, rejected                                   both prompts: a 2 x 2 grid
sami      SAMI      likewise
          Custom    chosen, rejected; the loss is a function of yours  its own prompt
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import mlx.core as mx
from jaxtyping import Bool, Float

from mipo_mlx.config import TrainConfig
from mipo_mlx.core.losses import (
    dpo_sigmoid_loss,
    hinge_loss,
    implicit_rewards,
    infonce_loss,
    ipo_loss,
    mipo_softmax_loss,
    sami_loss,
)
from mipo_mlx.errors import DataError
from mipo_mlx.training.collate import Batch, TrainingRow

FIGURES = (  # what is told of each row, under TRL's names
    "loss",
    "logps/chosen",
    "logps/rejected",
    "kl",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "nll_loss",
)


@dataclass(frozen=True)
class Scores:
    """Log-probs of the answers of ``p`` rows, nats, summed over tokens; the chosen one is first.

    Attributes:
        policy: of up to ``k`` rejected answers besides; padding repeats the last.
        reference: the same under the reference.
        lengths: tokens of each answer.
        there: which rejected answers are real.
        grids: of rows that are scored under both prompts, [row, prompt, answer]; else None.
    """

    policy: Float[mx.array, "p m"]
    reference: Float[mx.array, "p m"]
    lengths: Float[mx.array, "p m"]
    there: Bool[mx.array, "p k"]
    grids: Float[mx.array, "p 2 2"] | None = None

    @classmethod
    def of(cls, batch: Batch, logps: Float[mx.array, " r"]) -> Scores:
        """From log-probs of the responses of a batch's forest."""
        grids = None
        if batch.other_sides.shape[0]:
            grids = mx.stack([logps[batch.sides], logps[batch.other_sides]], axis=1)
        return cls(logps[batch.sides], batch.reference, batch.lengths, batch.there, grids)

    def per_token(self) -> Scores:
        """Means over the tokens of each answer in place of sums."""
        return replace(
            self, policy=self.policy / self.lengths, reference=self.reference / self.lengths
        )


@dataclass(frozen=True)
class Objective(ABC):
    """A loss over answers.

    Attributes:
        beta: of the implicit reward ``beta * (log pi_theta - log pi_ref)``.
        length_normalization: losses of pairs take means over tokens instead of sums.
    """

    beta: float = 0.1
    length_normalization: bool = False
    crossed: ClassVar[bool] = False  # answers are scored under both prompts of a row

    def arrange(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """Rows as this loss needs them, from rows of one rejected response each.

        Raises:
            DataError: no row is of use for this loss.
        """
        return list(rows)

    @abstractmethod
    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """The loss of each row."""

    def __call__(self, scores: Scores) -> Float[mx.array, " p"]:
        """The loss of each row, of sums or of means over tokens."""
        return self.loss(scores.per_token() if self.length_normalization else scores)

    def rewards(self, scores: Scores) -> Float[mx.array, "p m"]:
        """Implicit rewards of all answers (arXiv 2305.18290, eq. 5)."""
        return implicit_rewards(
            policy_logps=scores.policy, reference_logps=scores.reference, beta=self.beta
        )


@dataclass(frozen=True)
class DPO(Objective):
    """``-log sigmoid(r+ - r-)``; ``label_smoothing``: chance that a pair is the wrong way round."""

    label_smoothing: float = 0.0

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """As ``core.losses.dpo_sigmoid_loss``."""
        found, _, _ = dpo_sigmoid_loss(
            policy_chosen_logps=scores.policy[:, 0],
            policy_rejected_logps=scores.policy[:, 1],
            reference_chosen_logps=scores.reference[:, 0],
            reference_rejected_logps=scores.reference[:, 1],
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )
        return found


class IPO(Objective):
    """The squared distance of the log-ratio difference from ``1 / (2 beta)``."""

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """As ``core.losses.ipo_loss``."""
        rewards = self.rewards(scores)
        return ipo_loss(
            chosen_rewards=rewards[:, 0], rejected_rewards=rewards[:, 1], beta=self.beta
        )


class Hinge(Objective):
    """``max(0, 1 - (r+ - r-))``."""

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """As ``core.losses.hinge_loss``."""
        rewards = self.rewards(scores)
        return hinge_loss(chosen_rewards=rewards[:, 0], rejected_rewards=rewards[:, 1])


class SFT(Objective):
    """Mean negative log-prob of the chosen answer's tokens; a control."""

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """Cross-entropy of the chosen answer, a mean over its tokens."""
        return -scores.policy[:, 0] / scores.lengths[:, 0]


class MIPO(Objective):
    """Softmax over the chosen and all rejected answers of a row; DPO at one rejected answer."""

    def arrange(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """Rows of the same prompt and chosen answer become one."""
        joined: dict[tuple[str, tuple[int, ...], tuple[int, ...]], TrainingRow] = {}
        for row in rows:
            encoded = row.encoded
            key = (encoded.group, encoded.prompt_ids, encoded.responses[0])
            if key in joined:
                known = joined[key]
                responses = known.encoded.responses + encoded.responses[1:]
                joined[key] = TrainingRow(
                    replace(known.encoded, responses=responses), known.reference + row.reference[1:]
                )
            else:
                joined[key] = row
        return list(joined.values())

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """As ``core.losses.mipo_softmax_loss``."""
        return mipo_softmax_loss(
            policy_chosen_logps=scores.policy[:, 0],
            policy_rejected_logps=scores.policy[:, 1:],
            reference_chosen_logps=scores.reference[:, 0],
            reference_rejected_logps=scores.reference[:, 1:],
            beta=self.beta,
            there=scores.there,
        )


class _Crossed(Objective):
    """Losses over a grid: both answers under both prompts."""

    crossed: ClassVar[bool] = True

    def arrange(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """Rows whose other prompt is known."""
        kept = [row for row in rows if row.other_prompt_ids]
        if not kept:
            raise DataError(
                f"--loss {type(self).__name__.lower()} needs the prompt that each rejected answer "
                "was written for, and no pair's stands among the pairs.",
                "make the pairs with --negatives random, or with --objective prompt",
            )
        return kept


def _grids(scores: Scores) -> Float[mx.array, "p 2 2"]:
    if scores.grids is None:
        raise ValueError("rows were not scored under both prompts: collate them with crossed=True")
    return scores.grids


@dataclass(frozen=True)
class InfoNCE(_Crossed):
    """Which prompt does a response belong to? No reference."""

    temperature: float = 100.0

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """As ``core.losses.infonce_loss``."""
        return infonce_loss(_grids(scores), temperature=self.temperature)


class SAMI(_Crossed):
    """Softmax over responses and over prompts, on means over tokens."""

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """As ``core.losses.sami_loss``."""
        return sami_loss(_grids(scores) / scores.lengths[:, None, :])


@dataclass(frozen=True)
class Custom(Objective):
    """A loss of yours: ``function(scores)`` returns a value a row [p], differentiable."""

    function: Callable[[Scores], mx.array] | None = None

    def loss(self, scores: Scores) -> Float[mx.array, " p"]:
        """What the function says."""
        if self.function is None:
            raise TypeError("Custom needs a function")
        return self.function(scores)


def objective_of(config: TrainConfig) -> Objective:
    """The loss that ``--loss`` names, with its options."""
    beta, means = config.beta, config.length_normalization
    known: dict[str, Callable[[], Objective]] = {
        "sigmoid": lambda: DPO(beta, means, config.label_smoothing),
        "mipo": lambda: MIPO(beta, means),
        "ipo": lambda: IPO(beta, means),
        "hinge": lambda: Hinge(beta, means),
        "sft": lambda: SFT(beta),
        "infonce": lambda: InfoNCE(beta, temperature=config.infonce_temperature),
        "sami": lambda: SAMI(beta),
    }
    return known[config.loss]()


def losses(
    objective: Objective, scores: Scores, nll_weight: float = 0.0
) -> tuple[Float[mx.array, " p"], dict[str, mx.array]]:
    """Loss of each row, and TRL's figures of its first rejected response, [p] each.

    Rewards are told of sums, whatever the loss makes of them; ``kl`` is ``log pi_ref - log
    pi_theta`` of chosen answers, whose mean over the reference's own samples estimates
    KL(ref || policy).

    Args:
        objective: the loss.
        scores: of the rows.
        nll_weight: times the chosen answer's mean negative log-prob, added to each loss.
    """
    nll = -scores.policy[:, 0] / scores.lengths[:, 0]
    found = objective(scores)
    if nll_weight:
        found = found + nll_weight * nll
    rewards = objective.rewards(scores)
    figures = {
        "logps/chosen": scores.policy[:, 0],
        "logps/rejected": scores.policy[:, 1],
        "kl": scores.reference[:, 0] - scores.policy[:, 0],
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/margins": rewards[:, 0] - rewards[:, 1],
        "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).astype(mx.float32),
        "nll_loss": nll,
    }
    return found, figures
