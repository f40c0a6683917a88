"""What ``--loss`` means: which answers a row of training holds, and the loss over their log-probs.

loss      a row holds                                        answers scored under
--------  -------------------------------------------------  ------------------------
sigmoid   chosen, rejected                                   its own prompt
ipo       likewise
hinge     likewise
sft       likewise; rejected for the metrics alone
mipo      chosen, and all rejected answers it was paired to  its own prompt
infonce   chosen, rejected                                   both prompts: a 2 x 2 grid
sami      likewise
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mipo_mlx.config import TrainConfig
from mipo_mlx.core.losses import (
    dpo_sigmoid_loss,
    hinge_loss,
    infonce_loss,
    ipo_loss,
    mipo_softmax_loss,
    sami_loss,
)
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import DataError
from mipo_mlx.inference.prefix_tree import Forest, Row, alone, plant, stems_of

GRIDS = ("infonce", "sami")
FIGURES = (  # what is told of each row
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
class TrainingRow:
    """One row as token ids, with the reference's log-probs of its responses, nats.

    Attributes:
        encoded: prompt, chosen response and one or more rejected ones.
        reference: as many values as responses.
        other_prompt_ids: what the rejected response was sampled under, where that is known.
    """

    encoded: EncodedPair
    reference: tuple[float, ...]
    other_prompt_ids: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Of the prompt and all responses."""
        return len(self.encoded.prompt_ids) + sum(map(len, self.encoded.responses))


class Batch(NamedTuple):
    """Arrays of ``p`` rows with up to ``k`` rejected responses each.

    forest · sides [p, 1 + k] int32, the forest's responses that are chosen and rejected; padding
    repeats the last · there [p, k] bool, which rejected ones are real · other_sides [p, 2] int32,
    both responses under the other prompt, or [0, 2] · reference [p, 1 + k] fp32, nats ·
    lengths [p, 1 + k] fp32, tokens of each response.
    """

    forest: Forest
    sides: mx.array
    there: mx.array
    other_sides: mx.array
    reference: mx.array
    lengths: mx.array


def arrange(rows: Sequence[TrainingRow], loss: str) -> list[TrainingRow]:
    """Rows as a loss needs them, from rows of one rejected response each.

    ``mipo`` joins rows of the same prompt and chosen answer; ``infonce`` and ``sami`` keep those
    whose other prompt is known.

    Raises:
        DataError: no row is of use for this loss.
    """
    if loss in GRIDS:
        kept = [row for row in rows if row.other_prompt_ids]
        if not kept:
            raise DataError(
                f"--loss {loss} needs the prompt that each rejected answer was written for, and "
                "no pair's stands among the pairs.",
                "make the pairs with --negatives random, or with --objective prompt",
            )
        return kept
    if loss != "mipo":
        return list(rows)
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


def nodes(rows: Sequence[TrainingRow], loss: str) -> list[Row]:
    """Prompts with the answers whose log-probs a loss needs; what rows share stands once."""
    prompts: dict[tuple[str, tuple[int, ...]], dict[tuple[int, ...], None]] = {}
    for row in rows:
        wanted = [(row.encoded.group, row.encoded.prompt_ids)]
        if loss in GRIDS:
            wanted.append(("", row.other_prompt_ids))
        for prompt in wanted:
            prompts.setdefault(prompt, {}).update(dict.fromkeys(row.encoded.responses))
    return [Row(ids, tuple(mine), group) for (group, ids), mine in prompts.items()]


class Stems:
    """What the prompts of some nodes start with, and which of these each node goes on from."""

    def __init__(self, known: Sequence[Row]) -> None:
        groups = [node.group for node in known]
        self.tokens, owner = stems_of([node.prompt_ids for node in known], groups)
        self._owner = {
            (n.group, n.prompt_ids): place for n, place in zip(known, owner, strict=True)
        }

    def owner(self, node: Row) -> int:
        """The index of its stem."""
        return self._owner[node.group, node.prompt_ids]


def collate(
    rows: Sequence[TrainingRow],
    loss: str = "sigmoid",
    *,
    shares: bool = True,
    stems: Stems | None = None,
) -> Batch:
    """Pad rows into one ``Batch``.

    Args:
        rows: at least one.
        loss: decides which answers stand under which prompts.
        shares: a prompt is forwarded once for all its answers.
        stems: those of their prompts that are forwarded already, which the forest leaves out.
    """
    known = nodes(rows, loss)
    every = [((row.group, row.prompt_ids), ids) for row in known for ids in row.responses]
    places = {answer: place for place, answer in enumerate(every)}
    width = max(len(row.encoded.responses) for row in rows)
    sides, reference, lengths, other_sides = [], [], [], []
    for row in rows:
        key = (row.encoded.group, row.encoded.prompt_ids)
        room = width - len(row.encoded.responses)
        answers = row.encoded.responses + row.encoded.responses[-1:] * room
        sides.append([places[key, ids] for ids in answers])
        reference.append(row.reference + row.reference[-1:] * room)
        lengths.append([len(ids) for ids in answers])
        if loss in GRIDS:
            other = ("", row.other_prompt_ids)
            other_sides.append([places[other, ids] for ids in row.encoded.responses])
    counts = np.array([len(row.encoded.responses) - 1 for row in rows])
    if stems is None:
        forest = plant(known) if shares else alone(known)
    else:
        forest = plant(known, stems.tokens, [stems.owner(node) for node in known])
    return Batch(
        forest,
        mx.array(sides, dtype=mx.int32),
        mx.array(np.arange(width - 1) < counts[:, None]),
        mx.array(np.array(other_sides, dtype=np.int32).reshape(-1, 2)),
        mx.array(np.array(reference, dtype=np.float32)),
        mx.array(np.array(lengths, dtype=np.float32)),
    )


def _grid_loss(batch: Batch, logps: mx.array, config: TrainConfig) -> mx.array:
    lengths = batch.lengths[:, None, :]
    grids = mx.stack([logps[batch.sides], logps[batch.other_sides]], axis=1)  # [p, prompt, answer]
    if config.loss == "infonce":
        return infonce_loss(grids, temperature=config.infonce_temperature)
    return sami_loss(grids / lengths)


def losses(
    batch: Batch, logps: mx.array, config: TrainConfig
) -> tuple[mx.array, dict[str, mx.array]]:
    """Loss of each row [p] from log-probs of the forest's responses [r], and TRL's figures.

    Figures are of the first rejected response, [p] each; ``kl`` is ``log pi_ref - log pi_theta`` of
    chosen answers, whose mean over the reference's own samples estimates KL(ref || policy).
    """
    policy, reference = logps[batch.sides], batch.reference
    means = policy / batch.lengths
    kl = reference[:, 0] - policy[:, 0]
    figures = {"logps/chosen": policy[:, 0], "logps/rejected": policy[:, 1], "kl": kl}
    if config.length_normalization:
        policy, reference = means, reference / batch.lengths
    found, chosen, rejected = dpo_sigmoid_loss(
        policy_chosen_logps=policy[:, 0],
        policy_rejected_logps=policy[:, 1],
        reference_chosen_logps=reference[:, 0],
        reference_rejected_logps=reference[:, 1],
        beta=config.beta,
        label_smoothing=config.label_smoothing,
    )
    rewards = {"chosen_rewards": chosen, "rejected_rewards": rejected}
    # what is told are TRL's rewards, of sums, whatever the loss makes of them
    told = config.beta * ((logps[batch.sides] - batch.reference)[:, :2])
    if config.loss == "ipo":
        found = ipo_loss(**rewards, beta=config.beta)
    elif config.loss == "hinge":
        found = hinge_loss(**rewards)
    elif config.loss == "sft":
        found = -means[:, 0]
    elif config.loss == "mipo":
        found = mipo_softmax_loss(
            policy_chosen_logps=policy[:, 0],
            policy_rejected_logps=policy[:, 1:],
            reference_chosen_logps=reference[:, 0],
            reference_rejected_logps=reference[:, 1:],
            beta=config.beta,
            there=batch.there,
        )
    elif config.loss in GRIDS:
        found = _grid_loss(batch, logps, config)
    if config.nll_weight:
        found = found - config.nll_weight * means[:, 0]
    figures |= {
        "rewards/chosen": told[:, 0],
        "rewards/rejected": told[:, 1],
        "rewards/margins": told[:, 0] - told[:, 1],
        "rewards/accuracies": (told[:, 0] > told[:, 1]).astype(mx.float32),
        "nll_loss": -means[:, 0],
    }
    return found, figures
