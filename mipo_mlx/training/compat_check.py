"""Whether the gradient that a plan takes is that of the model's plain ``__call__``.

Checkpointed blocks, prompts in pieces and compiled steps each rest on what a model's code is like.
A wrong gradient comes with a right loss, so nothing else would tell. Two short pairs are taken by
the plan that training will follow, and plainly; what cannot be is given up for this model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import ModelError
from mipo_mlx.inference import lm_head, path_cache, ways
from mipo_mlx.inference.compat_check import PASSING, from_record, tell, told
from mipo_mlx.inference.prefix_tree import Row, shared_length
from mipo_mlx.inference.yardstick import Yardstick, described, refused
from mipo_mlx.models.load import LanguageModel, Paths
from mipo_mlx.training.collate import TrainingRow, collate, nodes
from mipo_mlx.training.distributed import Ranks
from mipo_mlx.training.memory_plan import Plan
from mipo_mlx.training.objectives import Scores, losses, objective_of
from mipo_mlx.training.step import Gradients

STEM, REST, ANSWER = 10, 4, 6  # most tokens of the parts of a short pair
PIECE = 6  # tokens of a prompt at once, where the plan has pieces
FEW_LOGITS = 7  # tokens whose logits are made at once, where the plan has them in chunks
ORDER = ("compiles", "checkpoints", "pieces", "splits", "shares")  # what is given up first


def short_rows(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Two rows of one context, their answers of unlike lengths, from a first row.

    Answers are cut from where they part, or their gradients would cancel.
    """
    encoded = rows[0].encoded
    prompt, stem = encoded.prompt_ids, encoded.prompt_ids[:STEM]
    other = rows[0].other_prompt_ids[: STEM - 2]
    common = shared_length(encoded.responses[0], encoded.responses[1])
    tails = [ids[common:] or ids[-1:] for ids in encoded.responses]
    if tails[0] == tails[1]:  # one answer is the other and its last token once more
        tails[0] = (*tails[0], prompt[0])
    made = []
    for number, rest in enumerate((prompt[STEM : STEM + REST], prompt[-2:-1])):
        answers = tuple(ids[: ANSWER - 2 * number - (ids is tails[0])] for ids in tails)
        pair = EncodedPair(f"check {number}", (*stem, *rest, prompt[-1]), answers, "check")
        made.append(TrainingRow(pair, (0.0,) * len(answers), other))
    return made


def _sums(model: Any, known: Sequence[Row]) -> mx.array:
    """Summed log-probs of every answer by the model's own ``__call__`` [r]."""
    return mx.stack([values.sum() for values in ways.lazily(model, known)])


def _flat(grads: Any) -> list[np.ndarray]:
    """Arrays of a gradient, in the order of their names."""
    named = dict(tree_flatten(grads))
    return [np.array(named[name].astype(mx.float32)) for name in sorted(named)]


class _Trial:
    """Short pairs whose gradient is taken in several ways."""

    def __init__(self, lm: LanguageModel, rows: Sequence[TrainingRow], config: TrainConfig) -> None:
        self.lm, self.config = lm, config
        try:
            self.rows = self._at_start(short_rows(rows))
        except Exception as error:  # whatever a model's own code comes up with
            raise refused(lm.name, "log-probs", error) from error
        self.yardstick = Yardstick(lm.name, lm.model, self.plain, "gradients")
        self.passing = False

    def _at_start(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """The model is its own reference, so that no loss is saturated."""
        made = []
        for row in rows:
            node = Row(row.encoded.prompt_ids, row.encoded.responses)
            values = np.array(_sums(self.lm.model, [node])).tolist()
            made.append(replace(row, reference=tuple(values)))
        return made

    def plain(self) -> list[np.ndarray]:
        """Of the mean loss, by the model's own ``__call__`` alone."""
        objective = objective_of(self.config)
        batch = collate(self.rows, crossed=objective.crossed, shares=False)
        known = nodes(self.rows, objective.crossed)

        def loss(model: Any) -> mx.array:
            scores = Scores.of(batch, _sums(model, known))
            return losses(objective, scores, self.config.nll_weight)[0].mean()

        return _flat(nn.value_and_grad(self.lm.model, loss)(self.lm.model)[1])

    def planned(self, paths: Paths, plan: Plan) -> list[np.ndarray]:
        """As training takes it by a plan, on these paths."""
        pieces = plan.piece and paths.pieces and paths.shares
        cut = Plan(
            1 if pieces else len(self.rows),
            plan.recompute and paths.checkpoints,
            self._few_logits() if plan.logits and paths.splits else 0,
            piece=PIECE if pieces else 0,
        )
        config = replace(self.config, compile=self.config.compile and paths.compiles)
        lm = replace(self.lm, paths=paths)
        return _flat(Gradients(lm, config, cut, Ranks(alone=True))(self.rows)[1])

    def _few_logits(self) -> int:
        """A budget that cuts the logits of these rows into chunks, bytes."""
        vocabulary: int = self.lm.model(mx.array([[0]])).shape[-1]
        budget = 1024
        while lm_head.chunk_rows(vocabulary, budget) < FEW_LOGITS:
            budget *= 2
        return budget

    def fault(self, paths: Paths, plan: Plan) -> str:
        """Why a plan may not be followed on these paths, "" if it may."""
        try:
            return self.yardstick.fault(lambda: self.planned(paths, plan))
        except ModelError as error:
            return error.message.rstrip(".")
        except Exception as error:  # a model of another make: its code may raise anything
            self.passing |= isinstance(error, PASSING) and not isinstance(
                error, NotImplementedError
            )
            return f"its code fails so: {described(error)}"


def _used(paths: Paths, plan: Plan, config: TrainConfig) -> list[str]:
    """What a plan makes use of, in the order in which it would be given up."""
    uses = {
        "compiles": config.compile and not lm_head.on_cpu(),
        "checkpoints": plan.recompute,
        "pieces": plan.piece > 0 and paths.shares,
        "splits": plan.logits > 0,
        "shares": True,
    }
    return [name for name in ORDER if uses[name] and getattr(paths, name)]


def _fewer(paths: Paths, used: Sequence[str]) -> Iterator[tuple[Paths, tuple[str, ...]]]:
    """Paths with ever more of what is used given up."""
    for count in range(len(used) + 1):
        for names in combinations(used, count):
            dropped: dict[str, Any] = dict.fromkeys(names, False)
            yield replace(paths, **dropped), names


def find_paths(
    lm: LanguageModel, rows: Sequence[TrainingRow], config: TrainConfig, plan: Plan
) -> tuple[Paths, bool]:
    """Paths on which a plan takes the plain gradient; as few as can be are given up.

    Returns:
        The paths, with reasons, and whether they hold another time.

    Raises:
        ModelError: there are none, or the plain gradient cannot be had.
    """
    was_training = lm.model.training
    lm.model.train()
    try:
        trial = _Trial(lm, rows, config)
        first = ""
        for paths, dropped in _fewer(lm.paths, _used(lm.paths, plan, config)):
            why = trial.fault(paths, plan)
            if not why:
                reasons = (*lm.paths.reasons, *((name, first) for name in dropped))
                return replace(paths, reasons=reasons), not trial.passing
            first = first or why
        if not trial.yardstick.steady():
            why = "its plain gradient is another each time"
    finally:
        lm.model.train(was_training)
    raise ModelError(
        f"{lm.name}: its gradients are not those of its plain forward pass: {why}.",
        "tried with and without shared prompts, checkpointing and the head apart; "
        "this model cannot be trained here",
    )


def check(
    lm: LanguageModel,
    rows: Sequence[TrainingRow],
    config: TrainConfig,
    plan: Plan,
    adapter: dict[str, Any],
) -> bool:
    """Set ``lm.paths`` to what gives right gradients by a plan; whether they are as they were.

    Args:
        lm: with an adapter attached.
        rows: to train on.
        config: of training.
        plan: that training would follow.
        adapter: what the adapter is made of.

    Raises:
        ModelError: the model cannot be trained.
    """
    before = lm.paths
    used = [*_used(before, plan, config), config.loss, adapter]
    about = {"model": lm.fingerprint, "check": "training", "by": json.dumps([used, asdict(before)])}
    known = path_cache.recall(about) if lm.fingerprint else None
    try:
        lm.paths = from_record(known or {})
    except (KeyError, TypeError, ValueError):
        lm.paths, lasting = find_paths(lm, rows, config, plan)
        if lm.fingerprint and lasting:
            path_cache.remember(about, asdict(lm.paths))
    if lm.paths != before:
        tell(told(lm))
    return lm.paths == before
