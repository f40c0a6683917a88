"""Recurrent states that several rows share: the cache of layers without keys and values.

Such a layer (a linear attention, a state space model, a short convolution) keeps a few arrays of a
fixed size, which every token replaces. Like keys and values they stay nodes of the graph, so that a
gradient flows through them into the prompt; and at the end of a prompt they can be forked, a row
for each continuation. Unlike keys and values they cannot be hidden once they are made: a padding
token would be part of all that follows. So a pass over rows of unlike lengths must leave a row's
state as it is where the row ends; not all layers of mlx-lm do so.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import mlx.core as mx

from mipo_mlx.inference.kv_cache import ExplicitCache


class StateCache(ExplicitCache):
    """States of one layer, in the interface that mlx-lm's models expect of an ``ArraysCache``.

    Args:
        size: arrays of a row's state.
        stops: the layer leaves a row's state as it is from ``lengths`` on.

    Attributes:
        lengths: real tokens of each row in the pass at hand [b]; None for all.
    """

    def __init__(self, size: int, stops: bool) -> None:
        self.cache: list[mx.array | None] = [None] * size
        self.stops = stops
        self.lengths: mx.array | None = None
        self.rows: list[mx.array | None] = [None] * size  # of each array, not yet taken
        self.empty_rows = 0  # while there is no state

    def __getitem__(self, index: int) -> mx.array | None:
        array, rows = self.cache[index], self.rows[index]
        return array if array is None or rows is None else array[rows]

    def __setitem__(self, index: int, array: mx.array) -> None:
        self.cache[index], self.rows[index] = array, None

    def make_mask(self, tokens: int) -> mx.array | None:
        """Which tokens of the pass at hand are real, bool [b, tokens]; None for all."""
        if self.lengths is None:
            return None
        return mx.arange(tokens) < self.lengths[:, None]

    def advance(self, tokens: int) -> None:
        """Nothing: ``lengths`` are of one pass, and all layers are told the same array."""

    def _empty(self) -> StateCache:
        return type(self)(len(self.cache), self.stops)

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate; rows are taken of them when they are used."""
        return [array for array in self.cache if array is not None]

    def twin(self, state: Sequence[mx.array]) -> StateCache:
        """A cache in this one's place that holds these arrays where it holds some."""
        made = self._empty()
        arrays = iter(state)
        made.cache = [old if old is None else next(arrays) for old in self.cache]
        made.rows, made.lengths = list(self.rows), self.lengths
        return made

    def written(self, held: int) -> list[mx.array]:
        """All states: a block replaces them."""
        return self.state

    def extend(self, arrays: Sequence[mx.array]) -> None:
        """Take the states that a block has made."""
        for index, array in zip(range(len(self.cache)), arrays, strict=True):
            self[index] = array

    @property
    def count(self) -> int:
        """Rows."""
        for array, rows in zip(self.cache, self.rows, strict=True):
            if array is not None:
                return int((array if rows is None else rows).shape[0])
        return self.empty_rows

    def with_rows(self, rows: mx.array | None, count: int) -> StateCache:
        """These rows [n]; None is all. ``count`` of them matter while there is no state."""
        twin = self._empty()
        twin.empty_rows = count
        twin.cache = list(self.cache)
        twin.rows = [
            old if rows is None else rows if old is None else old[rows] for old in self.rows
        ]
        return twin

    def put(self, other: StateCache, rows: mx.array) -> None:
        """Hold these rows [n] of another cache of the layer instead."""
        for index in range(len(self.cache)):
            array = other[index]
            if array is not None:
                self[index] = array[rows]

    def stacked(self, others: Sequence[StateCache], counts: Sequence[int]) -> StateCache:
        """The rows of this one and of others below one another.

        Args:
            others: of the same layer.
            counts: rows of each, this one first; where there is no state yet, it is zeros.
        """
        twin = self._empty()
        for index in range(len(self.cache)):
            parts = [cache[index] for cache in (self, *others)]
            known = next((part for part in parts if part is not None), None)
            if known is not None:
                twin[index] = mx.concatenate(
                    [
                        mx.zeros((count, *known.shape[1:]), known.dtype) if part is None else part
                        for part, count in zip(parts, counts, strict=True)
                    ]
                )
        return twin


@functools.cache
def recognised() -> type[StateCache]:
    """``StateCache`` as a subclass of mlx-lm's, by which Mamba knows that it is to keep states."""
    from mlx_lm.models.cache import ArraysCache

    return type("StateCache", (StateCache, ArraysCache), {})
