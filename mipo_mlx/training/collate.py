"""Rows of training as arrays: what rows share stands once in their forest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference.prefix_tree import Forest, Row, alone, plant, stems_of


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


def nodes(rows: Sequence[TrainingRow], crossed: bool = False) -> list[Row]:
    """Prompts with the answers whose log-probs a loss needs; what rows share stands once.

    Args:
        rows: of one micro-batch.
        crossed: answers are scored under both prompts of a row, as ``Objective.crossed`` says.
    """
    prompts: dict[tuple[str, tuple[int, ...]], dict[tuple[int, ...], None]] = {}
    for row in rows:
        wanted = [(row.encoded.group, row.encoded.prompt_ids)]
        if crossed:
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
    *,
    crossed: bool = False,
    shares: bool = True,
    stems: Stems | None = None,
) -> Batch:
    """Pad rows into one ``Batch``.

    Args:
        rows: at least one.
        crossed: as of ``nodes``.
        shares: a prompt is forwarded once for all its answers.
        stems: those of their prompts that are forwarded already, which the forest leaves out.
    """
    known = nodes(rows, crossed)
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
        if crossed:
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
