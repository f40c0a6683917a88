"""Figures and gradient of the rows of one optimizer step.

Rows are shared out among ranks, cut into micro-batches as planned, and on a GPU each micro-batch
runs through a compiled function. What comes back is the mean over all rows, however it was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mipo_mlx.config import TrainConfig
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import Forest, distinct_prefix_tokens, sequence_logprobs
from mipo_mlx.models.architecture import keeps_states
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.collate import Batch, Stems, TrainingRow, collate, nodes
from mipo_mlx.training.compile import Compiled, padded
from mipo_mlx.training.distributed import Ranks
from mipo_mlx.training.gradients import Trunk, forward_trunk, loss_gradient, trunk_gradient
from mipo_mlx.training.memory_plan import (
    AT_ONCE,
    Plan,
    bunches,
    by_pieces,
    micro_batches,
    tokens_of,
)
from mipo_mlx.training.objectives import FIGURES, Objective, Scores, losses, objective_of

Result = tuple[dict[str, mx.array], Any]  # figures of rows [p], and a gradient


def plain_plan(config: TrainConfig, lm: LanguageModel) -> Plan:
    """What the options say, as far as the model allows, without a look at memory."""
    return Plan(
        config.micro_batch_size or config.batch_size,
        config.gradient_checkpointing and lm.paths.checkpoints,
        int(config.logits_memory * 2**30) if lm.splits else 0,
        piece=config.prompt_piece if lm.paths.pieces and lm.shares else 0,
    )


def ideal_tokens(rows: Sequence[TrainingRow], crossed: bool) -> int:
    """Tokens that a step of these rows must forward: no prefix twice, whoever has it."""
    known = nodes(rows, crossed)
    prompts = [row.prompt_ids[:-1] for row in known]
    return distinct_prefix_tokens(prompts) + sum(len(ids) for r in known for ids in r.responses)


class Gradients:
    """Figures and gradients of rows under one model.

    Args:
        lm: with an adapter attached.
        config: of training.
        plan: how rows are cut; what the options say when None.
        ranks: who shares the rows; this process alone when None.
        objective: the loss; that of ``config`` when None.
    """

    def __init__(
        self,
        lm: LanguageModel,
        config: TrainConfig,
        plan: Plan | None = None,
        ranks: Ranks | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.lm, self.model, self.config = lm, lm.model, config
        self.plan = plan or plain_plan(config, lm)
        self.ranks = ranks or Ranks()
        self.objective = objective or objective_of(config)
        self.forwarded = 0  # tokens, over the life of this object
        self.compiled: Compiled | None = None
        compiles = config.compile and lm.paths.compiles and not lm_head.on_cpu()
        if compiles and not keeps_states(self.model):  # loops over tokens are too long to compile
            self.compiled = Compiled(self.model, self._of_arrays)

    def _summed(self, batch: Batch, logps: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        each, figures = losses(self.objective, Scores.of(batch, logps), self.config.nll_weight)
        return each.sum(), {"loss": each, **figures}

    def _batches(self, rows: Sequence[TrainingRow]) -> Iterator[Batch]:
        parts = micro_batches(rows, self.plan.micro_batch, AT_ONCE)
        yield from self._collated([[rows[index] for index in part] for part in parts])

    def _collated(self, parts: Sequence[Sequence[TrainingRow]]) -> Iterator[Batch]:
        for part in parts:
            self.forwarded += tokens_of(nodes(part, self.objective.crossed), self.lm.shares)
            yield collate(part, crossed=self.objective.crossed, shares=self.lm.shares)

    def _of_batch(self, batch: Batch, trunk: Trunk | None = None) -> tuple[mx.array, Any]:
        """Log-probs of the forest's responses, and the gradient of the rows' summed loss."""

        def loss(logps: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
            return self._summed(batch, logps)[0], {"logps": logps}

        budget, recompute = self.plan.logits, self.plan.recompute
        told, grads = loss_gradient(
            self.model, batch.forest, loss, budget=budget, recompute=recompute, trunk=trunk
        )
        return told["logps"], grads

    def _of_arrays(self, arrays: list[mx.array]) -> tuple[mx.array, Any]:
        count = len(arrays) - len(Batch._fields) + 1
        return self._of_batch(Batch(Forest.of(arrays[:count]), *arrays[count:]))

    def _by_pieces(self, parts: Sequence[Sequence[TrainingRow]]) -> Iterator[Result]:
        """Of rows that go on from the same prompts, these forwarded by themselves."""
        known = [node for part in parts for node in nodes(part, self.objective.crossed)]
        stems = Stems(known)
        if not by_pieces(stems.tokens, len(parts), self.plan.piece):
            yield from map(self._gradient, self._collated(parts))
            return
        trunk = forward_trunk(self.model, stems.tokens, self.plan.piece)
        self.forwarded += tokens_of(known, True)
        for part in parts:
            batch = collate(part, crossed=self.objective.crossed, stems=stems)
            found = self._gradient(batch, trunk)
            mx.eval(found, trunk.slopes)  # together, or a graph would stay for the latter
            yield found
        yield {}, trunk_gradient(self.model, trunk, recompute=self.plan.recompute)

    def _of_rows(self, rows: Sequence[TrainingRow]) -> Iterator[Result]:
        """Figures of rows, and gradients that add up to that of their summed loss."""
        if not (self.plan.piece and self.lm.shares):
            for batch in self._batches(rows):
                yield self._gradient(batch)
            return
        for bunch in bunches(rows, self.plan.micro_batch, AT_ONCE):
            yield from self._by_pieces([[rows[index] for index in part] for part in bunch])

    def _gradient(self, batch: Batch, trunk: Trunk | None = None) -> Result:
        """Each row's figures, and the gradient of the summed loss."""
        if self.compiled is None or trunk is not None:
            logps, grads = self._of_batch(batch, trunk)
        else:
            logps, grads = self.compiled([*padded(batch.forest).arrays, *batch[1:]])
        return self._summed(batch, logps)[1], grads

    def _mean(self, figures: dict[str, list[np.ndarray]], count: int) -> dict[str, float]:
        sums = [float(np.concatenate(figures.get(name) or [np.zeros(1)]).sum()) for name in FIGURES]
        return {n: s / count for n, s in zip(FIGURES, self.ranks.sums(sums), strict=True)}

    def __call__(self, rows: Sequence[TrainingRow]) -> tuple[dict[str, float], Any]:
        """Mean figures of rows, and the gradient of their mean loss."""
        total: Any = None
        figures: dict[str, list[np.ndarray]] = {}
        for each, grads in self._of_rows(self.ranks.mine(rows)):
            total = grads if total is None else tree_map(mx.add, total, grads)
            mx.eval(each, total)
            for name, array in each.items():
                figures.setdefault(name, []).append(np.array(array))
        if total is None:  # fewer rows than ranks
            total = tree_map(mx.zeros_like, self.model.trainable_parameters())
        total = self.ranks.total(total)
        return self._mean(figures, len(rows)), tree_map(lambda grad: grad / len(rows), total)

    def figures(self, rows: Sequence[TrainingRow], at_once: int) -> dict[str, float]:
        """Mean figures of rows without a gradient, under names that start with ``eval_``."""
        found: dict[str, list[np.ndarray]] = {}
        self.model.eval()
        mine = self.ranks.mine(rows)
        for start in range(0, len(mine), at_once):
            for batch in self._batches(mine[start : start + at_once]):
                logps = sequence_logprobs(self.model, batch.forest, budget=self.plan.logits)
                _, each = self._summed(batch, logps)
                for name, array in each.items():
                    found.setdefault(name, []).append(np.array(array))
        self.model.train()
        return {f"eval_{name}": mean for name, mean in self._mean(found, len(rows)).items()}
