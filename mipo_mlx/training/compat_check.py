"""Whether a model gives the same numbers run our way as run plainly, tried before it is trained.

Prompts forwarded once for all that follows them, and a head run apart from its blocks, rest on what
a model's code is like: keys and values as the only state, positions from the cache, a backbone of a
known name. Here a short batch is run both ways, log-probs and gradients compared; what differs is
given up for this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.errors import ModelError
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import Row, alone, plant
from mipo_mlx.models.architecture import other_states
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.gradients import loss_gradient

STEM, REST, ANSWER = 12, 6, 8  # most tokens of the parts of a short batch
EXACT, ROUGH = 1e-3, 0.1  # relative differences that pass: fp32, half precision
WAYS = ((True, True), (True, False), (False, True), (False, False))  # shares, splits

Found = tuple[mx.array, dict[str, mx.array]]  # log-probs, gradients by name


def short(prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[Row]:
    """Two prompts with a stem in common and two answers each, of unlike lengths, from one pair."""
    stem = tuple(prompt[:STEM])
    rests = tuple(prompt[STEM : STEM + REST]), tuple(prompt[-1:])
    one, other = (tuple(ids[:ANSWER]) for ids in (answers[0], answers[-1]))
    return [Row((*stem, *rest, prompt[-1]), (one, other[:-1] or other), "probe") for rest in rests]


def _told(logps: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    weights = 1.0 + mx.arange(logps.size) / logps.size  # every answer counts, none like another
    return (weights * logps).sum(), {"logps": logps}


def _plainly(lm: LanguageModel, rows: Sequence[Row]) -> Found:
    """By the model's own ``__call__`` alone, a sequence at a time."""

    def loss(model: Any) -> tuple[mx.array, dict[str, mx.array]]:
        found = []
        for row in rows:
            for answer in row.responses:
                logits = model(mx.array([[*row.prompt_ids, *answer[:-1]]]))
                wanted = mx.array([list(answer)])
                found.append(token_logprobs(logits[:, len(row.prompt_ids) - 1 :], wanted).sum())
        return _told(mx.stack(found))

    (_, told), grads = nn.value_and_grad(lm.model, loss)(lm.model)
    return told["logps"], dict(tree_flatten(grads))


def _our_way(lm: LanguageModel, rows: Sequence[Row], shares: bool, splits: bool) -> Found:
    forest = plant(rows) if shares else alone(rows)
    budget = lm_head.BUDGET if splits else 0
    told, grads = loss_gradient(lm.model, forest, _told, budget=budget, recompute=False)
    return told["logps"], dict(tree_flatten(grads))


def _apart(one: Found, other: Found) -> float:
    """The larger of both relative distances, of log-probs and of gradients."""
    found = []
    for mine, theirs in (({"": one[0]}, {"": other[0]}), (one[1], other[1])):
        gap = sum(
            float(((mine[name] - theirs[name]).astype(mx.float32) ** 2).sum()) for name in theirs
        )
        size = sum(float((theirs[name].astype(mx.float32) ** 2).sum()) for name in theirs)
        found.append((gap / size) ** 0.5 if size else gap)
    return float(np.max(found))  # NaN stays NaN


def probe(lm: LanguageModel, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> str:
    """Set ``lm.shares`` and ``lm.splits`` to what holds for this model.

    Args:
        lm: with an adapter attached.
        prompt, answers: token ids of a pair.

    Returns:
        What was given up and why, in one line; "" for nothing.

    Raises:
        ModelError: the model's own numbers are not finite.
    """
    rows = short(prompt, answers)
    was_training = lm.model.training
    lm.model.train()
    try:
        plainly = _plainly(lm, rows)
        values = [plainly[0], *plainly[1].values()]
        mx.eval(values)
        if not all(np.isfinite(np.array(value.astype(mx.float32))).all() for value in values):
            raise ModelError(
                f"{lm.name}: log-probs or gradients of a first pair are not finite.",
                "try the model with 'mlx_lm.generate'; half precision may be too narrow for it",
            )
        most = EXACT if all(value.dtype == mx.float32 for value in values[1:]) else ROUGH
        why = ", ".join(sorted(other_states(lm.model)))
        why = why and f"layers keep {why}"
        for shares, splits in WAYS:
            if shares and other_states(lm.model):
                continue
            try:
                gap = _apart(_our_way(lm, rows, shares, splits), plainly)
            except (AttributeError, TypeError, ValueError) as error:  # a model of another make
                why = why or f"{type(error).__name__} in its code"
                continue
            if gap <= most:
                lm.shares, lm.splits = shares, splits
                return _given_up(lm, why)
            why = why or f"numbers differ by {gap:.1g}"
    finally:
        lm.model.train(was_training)
    raise ModelError(f"{lm.name}: the same batch gives other numbers each time.", "is it random?")


def _given_up(lm: LanguageModel, why: str) -> str:
    parts = [] if lm.shares else ["every answer is forwarded with its whole prompt"]
    parts += [] if lm.splits else ["logits of all positions are held at once"]
    return f"{lm.name}: {' and '.join(parts)} ({why})" if parts else ""
