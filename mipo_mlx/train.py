"""Step 2: pairs with reference log-probs -> LoRA adapter, by DPO.

A prompt is forwarded once for both its answers, and a context once for the prompts of a batch that
share it. The reference is read from the pairs, so no second model and no second forward is needed.
Not covered here: gradient checkpointing, resuming in the middle of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mipo_mlx.config import TrainConfig
from mipo_mlx.core.dpo import dpo_sigmoid_loss
from mipo_mlx.data.batch import EncodedPair, batches
from mipo_mlx.errors import MipoError
from mipo_mlx.lm.forest import Forest, Row, plant, sequence_logprobs
from mipo_mlx.lm.load import LanguageModel


@dataclass(frozen=True)
class StepMetrics:
    """Means over the pairs of one optimizer step, under TRL's names; log-probs in nats."""

    step: int
    total_steps: int
    values: dict[str, float]


class Batch(NamedTuple):
    """Arrays of one step of ``p`` pairs.

    forest · sides [p, 2] int32, the responses that are chosen and rejected ·
    reference [p, 2] fp32, nats.
    """

    forest: Forest
    sides: mx.array
    reference: mx.array


@dataclass(frozen=True)
class TrainingRow:
    """One pair as token ids with its reference log-probs (chosen, rejected), nats."""

    encoded: EncodedPair
    reference: tuple[float, float]


def collate(rows: Sequence[TrainingRow]) -> Batch:
    """Pad rows into one ``Batch``; prompts and answers that several pairs share stand once."""
    prompts: dict[tuple[str, tuple[int, ...]], dict[tuple[int, ...], None]] = {}
    for row in rows:
        mine = prompts.setdefault((row.encoded.group, row.encoded.prompt_ids), {})
        mine.update(dict.fromkeys(row.encoded.responses))
    places = {
        (key, ids): place
        for place, (key, ids) in enumerate((k, ids) for k, mine in prompts.items() for ids in mine)
    }
    sides = [
        [places[(row.encoded.group, row.encoded.prompt_ids), ids] for ids in row.encoded.responses]
        for row in rows
    ]
    return Batch(
        plant([Row(ids, tuple(mine), group) for (group, ids), mine in prompts.items()]),
        mx.array(sides, dtype=mx.int32),
        mx.array(np.array([row.reference for row in rows], dtype=np.float32)),
    )


def batch_loss(model: nn.Module, batch: Batch, beta: float) -> tuple[mx.array, dict[str, mx.array]]:
    """Mean DPO loss of a batch and per-pair arrays [p] under TRL's names."""
    logps = sequence_logprobs(model, batch.forest)[batch.sides]
    losses, chosen, rejected = dpo_sigmoid_loss(
        policy_chosen_logps=logps[:, 0],
        policy_rejected_logps=logps[:, 1],
        reference_chosen_logps=batch.reference[:, 0],
        reference_rejected_logps=batch.reference[:, 1],
        beta=beta,
    )
    per_pair = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).astype(mx.float32),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
    }
    return losses.mean(), per_pair


def learning_rate(config: TrainConfig, total_steps: int) -> Any:
    """Linear warm-up over ``warmup`` of the steps, then constant or cosine to 10%."""
    warm = math.ceil(config.warmup * total_steps) if config.warmup else 0
    peak = config.learning_rate
    after: Any = peak
    if config.schedule == "cosine":
        after = optim.cosine_decay(peak, max(1, total_steps - warm), end=0.1 * peak)
    if not warm:
        return after
    rise = optim.linear_schedule(peak / (warm + 1), peak, warm)
    tail = after if callable(after) else (lambda step: mx.array(peak))
    return optim.join_schedules([rise, tail], [warm])


def _finite(values: dict[str, float], rows: Sequence[TrainingRow]) -> None:
    if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
        names = ", ".join(row.encoded.id for row in rows)
        raise MipoError(
            f"The loss or its gradient is not finite (loss {values['loss']}) at pairs {names}.",
            "lower --learning-rate, or look at these pairs",
        )


def train(
    lm: LanguageModel, rows: Sequence[TrainingRow], config: TrainConfig, *, seed: int
) -> Iterator[StepMetrics]:
    """Train the attached LoRA in place; one ``StepMetrics`` an optimizer step, before its update.

    Raises:
        MipoError: the loss or its gradient stops being finite; the weights keep the last good step.
    """
    per_epoch = math.ceil(len(rows) / config.batch_size)
    total = per_epoch * config.epochs
    total = min(total, config.max_steps) if config.max_steps else total
    optimizer = optim.AdamW(
        learning_rate=learning_rate(config, total),
        betas=[0.9, 0.95],
        weight_decay=config.weight_decay,
        bias_correction=True,
    )
    model = lm.model
    grad = nn.value_and_grad(model, batch_loss)
    model.train()
    tokens = 0
    step = 0
    for epoch in range(config.epochs):
        for indices in batches(
            [row.encoded for row in rows], config.batch_size, seed=seed, epoch=epoch
        ):
            if step == total:
                break
            chosen_rows = [rows[index] for index in indices]
            (loss, per_pair), grads = grad(model, collate(chosen_rows), config.beta)
            limit = config.max_grad_norm or math.inf
            grads, norm = optim.clip_grad_norm(grads, limit)
            mx.eval(loss, per_pair, norm)
            values = {"loss": loss.item(), "grad_norm": norm.item()}
            _finite(values, chosen_rows)
            optimizer.update(model, grads)
            mx.eval(model.trainable_parameters(), optimizer.state)
            tokens += sum(
                len(row.encoded.prompt_ids) + sum(map(len, row.encoded.responses))
                for row in chosen_rows
            )
            values.update({name: array.mean().item() for name, array in per_pair.items()})
            values.update(num_tokens=tokens, learning_rate=float(optimizer.learning_rate.item()))
            step += 1
            yield StepMetrics(step, total, values)
    model.eval()
