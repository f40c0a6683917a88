"""Sampling for models whose prompts cannot be shared as keys and values.

``OwnStream`` reads tokens with the caches that mlx-lm makes for the model, a row at a time, so it
serves every state that a layer may keep. A prompt's beginning that others share is still read once:
its caches are copied, as mlx-lm's server does. ``WholeStream`` keeps nothing and forwards each
sequence anew for every token; it is the model's plain ``__call__``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mipo_mlx.inference.prefill import PREFILL_TOKENS, Tally
from mipo_mlx.inference.prefix_tree import distinct_prefix_tokens, stems_of
from mipo_mlx.models.load import LanguageModel

Caches = list[Any]  # what mlx-lm makes for a model, for one row


def _new(model: Any) -> Caches:
    from mlx_lm.models.cache import make_prompt_cache

    caches: Caches = make_prompt_cache(model)
    return caches


def _arrays(caches: Caches) -> list[mx.array]:
    """All arrays of some caches' states."""
    leaves = [leaf for cache in caches for leaf in dict(tree_flatten(cache.state)).values()]
    return [leaf for leaf in leaves if isinstance(leaf, mx.array)]


class OwnStream:
    """Answers in the making, each with caches of its own."""

    def __init__(self, model: Any, rows: Sequence[Caches]) -> None:
        self.model, self.rows = model, list(rows)

    def step(self, tokens: mx.array) -> mx.array:
        """Logits [b, v] after one more token of each row [b]."""
        logits = [
            self.model(tokens[row : row + 1, None], cache=caches)[:, -1]
            for row, caches in enumerate(self.rows)
        ]
        return mx.concatenate(logits)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows only."""
        self.rows = [self.rows[row] for row in rows]

    def join(self, other: OwnStream) -> None:
        """Add the rows of another."""
        self.rows += other.rows

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate."""
        return [array for caches in self.rows for array in _arrays(caches)]


class WholeStream:
    """Answers in the making, each forwarded from its first token on for every new one."""

    def __init__(self, model: Any, rows: Sequence[mx.array]) -> None:
        self.model, self.rows = model, list(rows)  # tokens read so far, [1, t] each

    def step(self, tokens: mx.array) -> mx.array:
        """Logits [b, v] after one more token of each row [b]."""
        self.rows = [
            mx.concatenate([read, tokens[row : row + 1, None].astype(read.dtype)], axis=1)
            for row, read in enumerate(self.rows)
        ]
        logits = [self.model(read, cache=_new(self.model))[:, -1] for read in self.rows]
        return mx.concatenate(logits)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows only."""
        self.rows = [self.rows[row] for row in rows]

    def join(self, other: WholeStream) -> None:
        """Add the rows of another."""
        self.rows += other.rows

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate."""
        return self.rows


class OwnPrefill:
    """``Prefill`` on the model's own caches, or on none where it samples by whole sequences.

    Args:
        lm: the model.
        prompts: token ids, at least one each; each is asked for once.
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
        self.held: dict[int, Caches] = {}  # of stems that are still needed

    def order(self, index: int) -> tuple[int, int, int]:
        """Prompts sorted by this need few stems at a time."""
        stem = self.owner[index]
        return len(self.stems[stem]), stem, len(self.prompts[index])

    def bytes_of_row(self, index: int, columns: int) -> float:
        """Bytes of a row after this many tokens, by the stem of a prompt."""
        if self.lm.paths.sampling == "whole":
            return 4.0 * columns  # their ids
        stem = self.owner[index]
        self._hold(stem)
        held = sum(array.nbytes for array in _arrays(self.held[stem]))
        return columns * held / max(1, len(self.stems[stem]))

    def stream(self, indices: Sequence[int], reserve: int) -> OwnStream | WholeStream:
        """Rows that have read all of these prompts but their last tokens; ``reserve`` is unused."""
        if self.lm.paths.sampling == "whole":
            self.tally.forwarded += sum(len(self.prompts[index]) for index in indices)
            rows = [mx.array([self.prompts[index][:-1]], dtype=mx.int32) for index in indices]
            return WholeStream(self.lm.model, rows)
        return OwnStream(self.lm.model, [self._row(index) for index in indices])

    def _row(self, index: int) -> Caches:
        stem = self.owner[index]
        self._hold(stem)
        self.waiting[stem] -= 1
        last = self.waiting[stem] <= 0
        caches = self.held.pop(stem) if last else copy.deepcopy(self.held[stem])
        self._read(self.prompts[index][len(self.stems[stem]) : -1], caches)
        self.tally.forwarded += 1  # the last token, in the first step
        return caches

    def _hold(self, stem: int) -> None:
        """Read a stem, if it has not been read yet."""
        if stem not in self.held:
            self.held[stem] = _new(self.lm.model)
            self._read(self.stems[stem], self.held[stem])

    def _read(self, ids: tuple[int, ...], caches: Caches) -> None:
        for start in range(0, len(ids), PREFILL_TOKENS):
            self.lm.model(mx.array([ids[start : start + PREFILL_TOKENS]]), cache=caches)
            mx.eval(_arrays(caches))
        self.tally.forwarded += len(ids)
