"""Keys and values of prompts before their last token, for sampling: what prompts share is forwarded
once, and kept as long as a waiting prompt needs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mipo_mlx.data.batches import pad_right
from mipo_mlx.inference.layer_caches import (
    Caches,
    allocate,
    arrays,
    fork,
    join,
    settle,
    with_keys,
    with_states,
)
from mipo_mlx.inference.prefix_tree import distinct_prefix_tokens, head_of, stems_of
from mipo_mlx.inference.prompt_cache import Held, fill, hold_in_chunks, lengths_of, unpadded
from mipo_mlx.models.load import LanguageModel

PREFILL_TOKENS = 16_384  # most prompt tokens forwarded at once


@dataclass
class Tally:
    """Prompt tokens: forwarded, least possible, and of every prompt whole."""

    forwarded: int = 0
    ideal: int = 0
    unshared: int = 0


class SharedStream:
    """Answers in the making, a row each of forked caches."""

    def __init__(self, model: Any, caches: Caches) -> None:
        self.model, self.caches = model, caches

    def step(self, tokens: mx.array) -> mx.array:
        """Logits [b, v] after one more token of each row [b]."""
        logits: mx.array = self.model(tokens[:, None], cache=self.caches)[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows only."""
        self.caches = fork(self.caches, mx.array(list(rows)))

    def join(self, other: SharedStream) -> None:
        """Add the rows of another."""
        self.caches = join(self.caches, other.caches)

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate."""
        return arrays(self.caches)


class Prefill:
    """Prompts that are asked for once each, by index.

    Args:
        lm: the model.
        prompts: token ids, at least one each.
        groups: prompts of one group share the tokens that all of them start with; "" shares none.
        tally: counts tokens.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[tuple[int, ...]],
        groups: Sequence[str],
        tally: Tally,
    ) -> None:
        self.lm, self.prompts, self.tally = lm, prompts, tally
        tally.ideal += distinct_prefix_tokens(prompts)
        tally.unshared += sum(map(len, prompts))
        self.stems, self.owner = stems_of(prompts, groups)
        self.waiting = Counter(self.owner)  # prompts of each stem not asked for yet
        self.head = head_of(self.stems)
        self.trunk: Held | None = None  # the head, forwarded
        self.plate: Caches = []  # forwarded stems that are still needed
        self.on_plate: list[int] = []

    def order(self, index: int) -> tuple[int, int, int]:
        """Prompts sorted by this need few stems at a time, and little padding."""
        stem = self.owner[index]
        return len(self.stems[stem]), stem, len(self.prompts[index])

    def bytes_of_row(self, index: int, columns: int) -> float:
        """Bytes of a row with this many columns, and of its states, by the stem of a prompt."""
        self._serve([self.owner[index]])
        keyed, states = with_keys(self.plate), with_states(self.plate)
        keys = sum(array.nbytes / max(1, cache.held) for cache in keyed for array in cache.state)
        held = sum(array.nbytes for cache in states for array in cache.state)
        return (columns * keys + held) / len(self.on_plate)

    def stream(self, indices: Sequence[int], reserve: int) -> SharedStream:
        """Rows that have read all of these prompts but their last tokens.

        Args:
            indices: of prompts.
            reserve: columns to be allocated at a time when the caches grow.
        """
        stems = [self.owner[index] for index in indices]
        rows = self._serve(stems)
        caches = fork(self.plate, mx.array(rows))
        self.waiting -= Counter(stems)
        allocate(caches, reserve)
        rests = [self.prompts[index][len(self.stems[self.owner[index]]) : -1] for index in indices]
        self.tally.forwarded += sum(len(ids) + 1 for ids in rests)
        tokens, _ = pad_right(rests)
        if tokens.shape[1]:
            lengths, even = lengths_of(rests), unpadded(rests)
            fill(self.lm.model, mx.array(tokens), caches, lengths, even=even)
            settle(caches, lengths, even=even)
        return SharedStream(self.lm.model, caches)

    def _serve(self, wanted: Sequence[int]) -> list[int]:
        """Rows of the plate that hold these stems, forwarded now if they are not there yet."""
        missing = sorted(set(wanted) - set(self.on_plate))
        if missing:
            kept = [row for row, stem in enumerate(self.on_plate) if self.waiting[stem] > 0]
            fresh = self._forward([self.stems[stem] for stem in missing])
            old = fork(self.plate, mx.array(kept)) if kept else []
            self.plate = join(old, fresh) if old else fresh
            self.on_plate = [self.on_plate[row] for row in kept] + missing
        return [self.on_plate.index(stem) for stem in wanted]

    def _forward(self, stems: Sequence[tuple[int, ...]]) -> Caches:
        """Forked caches of stems, a row each, in their order; a head of many is forwarded once."""
        size = len(self.head)
        headed = [index for index, stem in enumerate(stems) if stem[:size] == self.head and size]
        bare = [index for index in range(len(stems)) if index not in set(headed)]
        parts = []
        if headed:
            if self.trunk is None:
                self.trunk = hold_in_chunks(self.lm.model, [self.head], PREFILL_TOKENS)
                self.tally.forwarded += size
            rests = [stems[index][size:] for index in headed]
            parts.append(hold_in_chunks(self.lm.model, rests, PREFILL_TOKENS, self.trunk))
            self.tally.forwarded += sum(map(len, rests))
        if bare:
            whole = [stems[index] for index in bare]
            parts.append(hold_in_chunks(self.lm.model, whole, PREFILL_TOKENS))
            self.tally.forwarded += sum(map(len, whole))
        made = [fork(held.caches, None, held.lengths, even=held.even) for held in parts]
        if len(made) == 1:
            return made[0]
        order = sorted(range(len(stems)), key=[*headed, *bare].__getitem__)
        return fork(join(*made), mx.array(order))
