"""Step 2: pairs with reference log-probs -> LoRA adapter.

A prompt is forwarded once for all its answers, and a context once for the prompts of a batch that
share it. The reference is read from the pairs, so no second model and no second forward is needed.
A step is cut into micro-batches, whose gradients add up to that of the whole; the state after any
step can be saved, and a run that goes on from it ends with the same bits as one never stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import batches
from mipo_mlx.data.blocks import balance
from mipo_mlx.errors import MipoError
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.distributed import Ranks
from mipo_mlx.training.memory_plan import Plan
from mipo_mlx.training.objectives import Objective
from mipo_mlx.training.step import Gradients, ideal_tokens

log = logging.getLogger("mipo_mlx")
NOISY = ("tokens_per_second", "peak_memory_bytes", "cache_memory_bytes")  # not of the numbers
STEADY = 10  # steps over which stops look
LARGE = 1.5  # times the pairs of a step: a block worth a word
DIVERGED = 1.25  # times the first step's loss
STOPS = {  # why a training ended before its time
    "saturation": "saturation: almost every pair is told apart, nothing more is learned",
    "KL budget": "KL budget: the adapter is as far from the reference as --kl-budget allows",
    "divergence": "divergence: the loss is a quarter above where it began and the KL to the "
    "reference climbs; lower --learning-rate",
    "validation": "validation: it has not become better for --patience validations",
}


@dataclass(frozen=True)
class StepMetrics:
    """Means over the pairs of one optimizer step, under TRL's names; log-probs in nats."""

    step: int
    total_steps: int
    values: dict[str, float]


@dataclass
class Counters:
    """Where a run stands, in numbers that JSON holds exactly."""

    step: int = 0
    num_tokens: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    worse: int = 0
    stopped: str = ""
    recent: list[tuple[float, float, float]] = field(default_factory=list)
    first_loss: float = 0.0


def learning_rate(config: TrainConfig, total_steps: int) -> Any:
    """Linear warm-up over ``warmup`` of the steps, then constant, cosine to 10%, or linear to 0."""
    warm = math.ceil(config.warmup * total_steps) if config.warmup else 0
    peak, left = config.learning_rate, max(1, total_steps - warm)
    after: Any = peak
    if config.schedule == "cosine":
        after = optim.cosine_decay(peak, left, end=0.1 * peak)
    elif config.schedule == "linear":
        after = optim.linear_schedule(peak, 0.0, left)
    if not warm:
        return after
    rise = optim.linear_schedule(peak / (warm + 1), peak, warm)
    tail = after if callable(after) else (lambda step: mx.array(peak))
    return optim.join_schedules([rise, tail], [warm])


def _balance(rows: Sequence[TrainingRow]) -> float:
    """Share of the answers of a step that are chosen as often as they are rejected."""
    sides = [row.encoded.responses for row in rows]
    chosen = [answers[0] for answers in sides for _ in answers[1:]]
    return balance(chosen, [answer for answers in sides for answer in answers[1:]])


def _finite(values: dict[str, float], rows: Sequence[TrainingRow]) -> None:
    if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
        names = ", ".join(row.encoded.id for row in rows)
        raise MipoError(
            f"The loss or its gradient is not finite (loss {values['loss']}) at pairs {names}.",
            "lower --learning-rate, or look at these pairs",
        )


class Trainer:
    """Trains the attached LoRA in place, step by step, from any saved state.

    Args:
        lm: with an adapter attached.
        rows: of one rejected answer each; the objective arranges them as it needs.
        config: of training.
        seed: of the order of rows.
        validation: rows that are never trained on.
        plan: how a step is cut; what the options say when None.
        ranks: who shares the rows of a step; this process alone when None.
        objective: the loss; that of ``config`` when None.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[TrainingRow],
        config: TrainConfig,
        *,
        seed: int,
        validation: Sequence[TrainingRow] = (),
        plan: Plan | None = None,
        ranks: Ranks | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.model, self.config, self.seed = lm.model, config, seed
        self.gradients = Gradients(lm, config, plan, ranks, objective)
        objective = self.gradients.objective
        self.rows = objective.arrange(rows)
        self.validation = objective.arrange(validation) if validation else []
        self.per_step = config.batch_size * config.gradient_accumulation_steps
        self.per_epoch = len(self._order(0))
        total = self.per_epoch * config.epochs
        self.total = min(total, config.max_steps) if config.max_steps else total
        self.optimizer = optim.AdamW(
            learning_rate=learning_rate(config, self.total),
            betas=[0.9, 0.95],
            weight_decay=config.weight_decay,
            bias_correction=True,
        )
        self.optimizer.init(self.model.trainable_parameters())
        self.counters = Counters()
        self.best: Any = None

    def _order(self, epoch: int) -> list[list[int]]:
        """Indices of the rows of an epoch's steps."""
        encoded = [row.encoded for row in self.rows]
        return batches(encoded, self.per_step, seed=self.seed, epoch=epoch)

    def tell_large_blocks(self) -> None:
        """Say where steps are larger than was asked for, as blocks stay whole."""
        sizes = Counter(row.encoded.block for row in self.rows if row.encoded.block)
        most = max(sizes.values(), default=0)
        if most > LARGE * self.per_step:
            log.warning(
                "blocks of up to %d pairs stay whole, so steps may hold more than the %d asked "
                "for; 'mipo generate --block-prompts' makes smaller ones",
                most,
                self.per_step,
            )

    def snapshot(self) -> tuple[dict[str, mx.array], dict[str, Any]]:
        """Arrays and numbers from which ``restore`` goes on."""
        trees = {
            "adapter": self.model.trainable_parameters(),
            "optimizer": self.optimizer.state,
            **({"best": self.best} if self.best is not None else {}),
        }
        return dict(tree_flatten(trees)), asdict(self.counters)

    def restore(self, arrays: Mapping[str, mx.array], numbers: Mapping[str, Any]) -> None:
        """Be where ``snapshot`` was taken.

        Raises:
            KeyError, TypeError, ValueError: it is of another model or training.
        """
        trees = tree_unflatten(list(arrays.items()))
        here = dict(tree_flatten(self.model.trainable_parameters()))
        given = dict(tree_flatten(trees["adapter"]))
        if {name: array.shape for name, array in given.items()} != {
            name: array.shape for name, array in here.items()
        }:
            raise ValueError("another adapter")
        self.model.update(trees["adapter"])
        self.optimizer.state = trees["optimizer"]
        self.best = trees.get("best")
        self.counters = Counters(**numbers)
        self.counters.recent = [(a, b, c) for a, b, c in self.counters.recent]

    def gradient(self, rows: Sequence[TrainingRow]) -> tuple[dict[str, float], Any]:
        """Mean figures of rows, and the gradient of their mean loss."""
        return self.gradients(rows)

    def _step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """One optimizer step; figures are means over its rows, before the update."""
        start, before = time.perf_counter(), self.gradients.forwarded
        mx.reset_peak_memory()
        values, grads = self.gradient(rows)
        grads, norm = optim.clip_grad_norm(grads, self.config.max_grad_norm or math.inf)
        values["grad_norm"] = norm.item()
        _finite(values, rows)
        self.optimizer.update(self.model, grads)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        mine = self.gradients.forwarded - before
        return values | {
            "balance": _balance(rows),
            "forwarded_tokens": sum(self.gradients.ranks.sums([mine])),
            "ideal_tokens": ideal_tokens(rows, self.gradients.objective.crossed),
            "tokens_per_second": sum(row.tokens for row in rows) / (time.perf_counter() - start),
            "peak_memory_bytes": mx.get_peak_memory(),
            "cache_memory_bytes": mx.get_cache_memory(),
        }

    def validate(self) -> dict[str, float]:
        """Means over the validation rows, under names that start with ``eval_``."""
        return self.gradients.figures(self.validation, self.per_step)

    def _judge(self, values: dict[str, float]) -> None:
        """Note the best state so far, and whether it is time to stop."""
        now, config = self.counters, self.config
        if now.step == 1:  # the policy is the reference: ln(K + 1) for sigmoid and mipo
            now.first_loss = values["loss"]
        now.recent = [
            *now.recent[1 - STEADY :],
            (values["loss"], values["rewards/accuracies"], values["kl"]),
        ]
        loss, accuracy, kl = (float(mean) for mean in np.mean(now.recent, axis=0))
        steady = len(now.recent) == STEADY
        if steady and config.stop_saturated and accuracy > 0.99 and loss < 0.05:
            now.stopped = "saturation"
        if steady and config.kl_budget and kl > config.kl_budget:
            now.stopped = "KL budget"
        if steady and config.stop_diverged and self._diverges(loss):
            now.stopped = "divergence"
        every = config.eval_every or max(1, self.per_epoch // 4)
        if self.validation and (now.step % every == 0 or now.step == self.total or now.stopped):
            values.update(self.validate())
            if values["eval_loss"] < now.best_loss:
                now.best_loss, now.best_step, now.worse = values["eval_loss"], now.step, 0
                self.best = tree_map(lambda array: array, self.model.trainable_parameters())
            else:
                now.worse += 1
                if config.patience and now.worse >= config.patience:
                    now.stopped = "validation"

    def _diverges(self, loss: float) -> bool:
        """Whether a mean loss is well above the first step's while the KL climbs."""
        drift = [kl for _, _, kl in self.counters.recent]
        half = len(drift) // 2
        climbs = sum(drift[half:]) / (len(drift) - half) > max(0.0, sum(drift[:half]) / half)
        return 0 < DIVERGED * self.counters.first_loss < loss and climbs

    def run(self) -> Iterator[StepMetrics]:
        """The steps that are left; one ``StepMetrics`` each, its figures from before its update.

        At the end the weights are those of the best validation, where there was one.

        Raises:
            MipoError: the loss or its gradient stops being finite; the weights keep the last good
                step.
        """
        now = self.counters
        self.model.train()
        while now.step < self.total and not now.stopped:
            epoch, skip = divmod(now.step, self.per_epoch)
            for indices in self._order(epoch)[skip : skip + self.total - now.step]:
                rows = [self.rows[index] for index in indices]
                values = self._step(rows)
                rate = float(self.optimizer.learning_rate.item())
                now.step += 1
                now.num_tokens += sum(row.tokens for row in rows)
                values.update(num_tokens=now.num_tokens, learning_rate=rate)
                self._judge(values)
                yield StepMetrics(now.step, self.total, values)
                if now.stopped:
                    break
        if self.best is not None:
            self.model.update(self.best)
        self.model.eval()


def train(
    lm: LanguageModel, rows: Sequence[TrainingRow], config: TrainConfig, *, seed: int
) -> Iterator[StepMetrics]:
    """``Trainer.run`` from the start, without validation."""
    yield from Trainer(lm, rows, config, seed=seed).run()
