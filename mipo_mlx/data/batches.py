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


@dataclass(frozen=True)
class EncodedPair:
    """A pair as token ids; ``responses`` holds chosen, then rejected.

    Pairs of one ``group`` share the tokens that all their prompts start with; "" shares none. Those
    of one ``block`` belong in one step; "" is a block of its own.
    """

    id: str
    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    group: str = ""
    block: str = ""

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
    """Indices of an epoch's steps: every pair once, the pairs of a block in one step, seeded.

    Whole blocks are packed into steps of at most ``batch_size`` pairs, the largest first and each
    where it leaves the least room; a larger block is a step of its own. A pair without a block is
    a block, so pairs from elsewhere meet at random. Which blocks meet and the order of steps are
    drawn anew each epoch; how many steps there are depends on the blocks' sizes alone.
    """
    rng = random.Random(f"{seed}:{epoch}:batches")
    by_block: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_block.setdefault(pair.block or f"\0{index}", []).append(index)
    blocks = list(by_block.values())
    rng.shuffle(blocks)
    blocks.sort(key=len, reverse=True)
    open_steps: dict[int, list[list[int]]] = {}  # room -> steps with that much
    made: list[list[int]] = []
    for block in blocks:
        fit = min((r for r, steps in open_steps.items() if steps and r >= len(block)), default=None)
        if fit is None:
            step: list[int] = []
            made.append(step)
            room = batch_size
        else:
            step, room = open_steps[fit].pop(), fit
        step += block
        open_steps.setdefault(max(0, room - len(block)), []).append(step)
    rng.shuffle(made)
    for step in made:  # those of a context side by side, for ranks that share a step
        step.sort(key=lambda index: (pairs[index].group, index))
    return made
