"""Token ids to padded arrays, and the order of training.

Two rows, ``[5, 6, 7]`` and ``[8]``:

    pad_right -> [[5, 6, 7],   mask [[True, True, True],
                  [8, 0, 0]]         [True, False, False]]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 8  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class EncodedPair:
    """A pair as token ids; ``responses`` holds chosen, then rejected.

    Pairs of one ``group`` share the tokens that all their prompts start with; "" shares none.
    """

    id: str
    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    group: str = ""

    @property
    def length(self) -> int:
        """Tokens of the prompt and its longest response."""
        return len(self.prompt_ids) + max(map(len, self.responses))


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded tokens [b, t] int32 and mask [b, t] bool."""
    width = max(len(row) for row in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int32)
    mask = np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        mask[index, : len(row)] = True
    return tokens, mask


def batches(
    pairs: Sequence[EncodedPair], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of an epoch: every pair once, the last partial batch kept, seeded.

    Rows are shuffled, then sorted by length within windows of eight batches, then the batches are
    shuffled: little padding, and no fixed order of lengths.
    """
    rng = random.Random(f"{seed}:{epoch}:batches")
    order = list(range(len(pairs)))
    rng.shuffle(order)
    made = []
    for start in range(0, len(order), batch_size * WINDOW):
        window = sorted(
            order[start : start + batch_size * WINDOW], key=lambda index: pairs[index].length
        )
        made += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    rng.shuffle(made)
    return made
