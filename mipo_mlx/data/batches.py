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


def pad_right(rows: Sequence[Sequence[int]], least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded tokens [b, t] int32 and mask [b, t] bool, at least so wide."""
    width = max(least, *(len(row) for row in rows))
    tokens = np.zeros((len(rows), width), dtype=np.int32)
    mask = np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        mask[index, : len(row)] = True
    return tokens, mask


def batches(
    pairs: Sequence[EncodedPair], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of an epoch: every pair once, all batches full but one, seeded.

    Pairs of one context come together, so that a batch forwards it once; which of its pairs meet,
    and the order of batches, is drawn anew each epoch. What does not fill a batch of its own is
    sorted by length within windows of eight batches, for little padding.
    """
    rng = random.Random(f"{seed}:{epoch}:batches")
    by_group: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_group.setdefault(pair.group or f"\0{index}", []).append(index)
    groups = list(by_group.values())
    rng.shuffle(groups)
    made: list[list[int]] = []
    windows: list[list[list[int]]] = [[]]
    held = 0
    for group in groups:
        rng.shuffle(group)
        whole = len(group) - len(group) % batch_size
        made += [group[i : i + batch_size] for i in range(0, whole, batch_size)]
        if whole < len(group):
            windows[-1].append(group[whole:])
            held += len(group) - whole
            if held >= batch_size * WINDOW:
                windows.append([])
                held = 0
    rest: list[int] = []
    for window in windows:
        for group in sorted(window, key=lambda group: max(pairs[i].length for i in group)):
            rest += group
    made += [rest[i : i + batch_size] for i in range(0, len(rest), batch_size)]
    rng.shuffle(made)
    return made
