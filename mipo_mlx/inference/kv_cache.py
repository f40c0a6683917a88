"""Keys and values that several rows share: the cache that the product's models run with.

A prompt fills a functional cache: its keys and values stay nodes of the graph, so gradients flow
through them. The cache is then forked, a row for each continuation, as often as needed: a context
for its prompts, a prompt for its responses.

Every column of a forked cache has an explicit position, the count of real columns before it, and
padding is hidden; so padding changes neither positions nor sliding windows. A row sees itself: no
row is ever fully masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

HIDDEN = 2**30  # position of padding, beyond every query


@dataclass(frozen=True)
class Layout:
    """Where the columns of a forked cache stand; one for all layers.

    Attributes:
        position: of the first columns [b, shared] int32, ``HIDDEN`` at padding.
        base: position of the next column [b] int32; later ones count on from it.
        even: no column of any row is padding, so that "causal" says all there is to say. A fact
            known from lengths, for the arrays cannot be asked while a function is traced.
    """

    position: mx.array
    base: mx.array
    even: bool = False

    @property
    def shared(self) -> int:
        """Columns with an explicit position."""
        return int(self.position.shape[1])

    def positions(self, columns: int) -> mx.array:
        """Positions of this many columns [b, columns]."""
        later = self.base[:, None] + mx.arange(columns - self.shared)
        return mx.concatenate([self.position, later], axis=1)

    def mask(self, held: int, new: int, window: int | None = None) -> mx.array:
        """What each of ``new`` tokens after ``held`` columns may see, bool [b, 1, new, held + new].

        Args:
            held: columns before them.
            new: tokens.
            window: sees this many tokens, itself included; None is all.
        """
        key = self.positions(held + new)[:, None, :]
        query = self.base[:, None] + mx.arange(held - self.shared, held - self.shared + new)
        query = query[:, :, None]
        visible = key <= query
        if window is not None:
            visible = visible & (key > query - window)
        return visible[:, None]

    def settle(self, held: int, real: mx.array, even: bool = False) -> Layout:
        """The layout in which, of the columns after ``shared``, the first ``real`` [b] count.

        ``even`` says that these are all of them.
        """
        index = mx.arange(held - self.shared)
        later = mx.where(index < real[:, None], self.base[:, None] + index, HIDDEN)
        position = mx.concatenate([self.position, later], axis=1)
        return Layout(position, self.base + real, self.even and even)

    def take(self, rows: mx.array) -> Layout:
        """These rows."""
        return Layout(self.position[rows], self.base[rows], self.even)


def left_aligned(columns: int, lengths: mx.array, even: bool = False) -> Layout:
    """Right-padded prompts: ``lengths`` [b] of the ``columns`` are real; all where ``even``."""
    column = mx.arange(columns)
    return Layout(mx.where(column < lengths[:, None], column, HIDDEN), lengths, even)


def take(array: mx.array, rows: mx.array | None) -> mx.array:
    """These rows of an array; None is all."""
    return array if rows is None else array[rows]


class GrowingCache:
    """Keys and values of one layer, in the interface that mlx-lm's models expect of a cache.

    It starts in prompt mode: rows left-aligned and right-padded, positions 0, 1, 2, ...
    ``fork`` gives caches with a layout, whose rows go on from their own lengths.

    Args:
        mask_rank: axes of an array mask; 5 for models that score grouped heads on an own axis.
        reserve: columns allocated at a time after a fork and written in place. 0 concatenates
            instead, as gradients need.
    """

    def __init__(self, mask_rank: int = 4, reserve: int = 0) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.held = 0  # columns in use
        self.layout: Layout | None = None
        self.mask_rank = mask_rank
        self.reserve = reserve

    @property
    def offset(self) -> int | mx.array:
        """Position of the next token: int in prompt mode, [b] after a fork."""
        if self.layout is None:
            return self.held
        return self.layout.base + (self.held - self.layout.shared)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append [b, heads, new, d] and return all columns [b, heads, held, d]."""
        self.append(keys, values)
        return self.keys_and_values()

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Take keys and values of new tokens [b, heads, new, d]."""
        start, self.held = self.held, self.held + keys.shape[2]
        self.keys = self._append(self.keys, keys, start)
        self.values = self._append(self.values, values, start)

    def _append(self, old: mx.array | None, new: mx.array, start: int) -> mx.array:
        if self.layout is None or not self.reserve:
            return new if old is None else mx.concatenate([old, new], axis=2)
        if old is None or start + new.shape[2] > old.shape[2]:
            shape = (*new.shape[:2], max(self.reserve, new.shape[2]), new.shape[3])
            room = mx.zeros(shape, new.dtype)
            old = room if old is None else mx.concatenate([old[..., :start, :], room], axis=2)
        old[..., start : start + new.shape[2], :] = new
        return old

    def make_mask(
        self, new: int, return_array: bool = False, window_size: int | None = None
    ) -> Any:
        """Mask for ``new`` more tokens: bool array, or ``"causal"`` where that says the same.

        Attention aligns the latter to the last key, and on Metal has a fused gradient for it alone.
        A single token that sees all has no mask, as mlx-lm's own caches say: some models work on
        scores themselves then, and know arrays only.
        """
        from mlx_lm.models.base import create_causal_mask

        narrow = window_size is not None and self.held + new > window_size
        padded = self.layout is not None and not self.layout.even
        if not (narrow or return_array or padded):
            return None if new == 1 else "causal"
        if self.layout is not None:
            mask = self.layout.mask(self.held, new, window_size)
            return mask[:, None] if self.mask_rank == 5 else mask
        return create_causal_mask(new, offset=self.held, window_size=window_size)

    def hold(self, keys: mx.array, values: mx.array) -> None:
        """Begin with these columns [b, heads, held, d]."""
        self.keys, self.values, self.held = keys, values, keys.shape[2]

    def with_rows(self, layout: Layout | None, rows: mx.array | None) -> GrowingCache:
        """These rows [n], None for all, whose columns stand as ``layout`` says."""
        twin = GrowingCache(self.mask_rank, self.reserve)
        twin.held, twin.layout = self.held, layout
        if self.keys is not None and self.values is not None:
            arrays = (self.keys[..., : self.held, :], self.values[..., : self.held, :])
            twin.keys, twin.values = (take(array, rows) for array in arrays)
        return twin

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All columns [b, heads, held, d], for layers that read another layer's."""
        assert self.keys is not None and self.values is not None
        return self.keys[..., : self.held, :], self.values[..., : self.held, :]

    def since(self, held: int) -> tuple[mx.array, mx.array] | None:
        """Keys and values of the columns after the first ``held``; None where there are none."""
        if self.keys is None or self.values is None or self.held == held:
            return None
        return self.keys[..., held : self.held, :], self.values[..., held : self.held, :]

    def trim(self, columns: int) -> None:
        """Forget the last columns."""
        self.held -= columns
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys_and_values()

    def moved(self, order: mx.array, layout: Layout) -> GrowingCache:
        """Columns in this order [b, width], which then stand as ``layout`` says."""
        rows = mx.arange(order.shape[0])[:, None]
        twin = GrowingCache(self.mask_rank, self.reserve)
        twin.held, twin.layout = order.shape[1], layout
        if self.keys is not None and self.values is not None:  # some column
            twin.keys, twin.values = (
                array.swapaxes(1, 2)[rows, order].swapaxes(1, 2)
                for array in (self.keys, self.values)
            )
        return twin

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate."""
        return [] if self.keys is None or self.values is None else [self.keys, self.values]


class ExplicitCache(ABC):
    """A cache that a checkpointed block is given as arrays, and whose new arrays it gives back."""

    @property
    @abstractmethod
    def state(self) -> list[mx.array]:
        """Arrays that are held."""

    @abstractmethod
    def twin(self, state: Sequence[mx.array]) -> ExplicitCache:
        """A cache in this one's place that holds these arrays in place of its own."""

    @abstractmethod
    def written(self, held: int) -> list[mx.array]:
        """What a block has made of a twin that held so many arrays."""

    @abstractmethod
    def extend(self, arrays: Sequence[mx.array]) -> None:
        """Take what a block has made of a twin."""


class SegmentedCache(GrowingCache, ExplicitCache):
    """For checkpointed blocks: what was appended is kept apart, and joined inside a block only.

    A joined copy would be an input of the block and so be kept for the backward pass, once for each
    pass that looks at a prefix; segments are kept once, whoever looks.
    """

    def __init__(self, mask_rank: int = 4) -> None:
        super().__init__(mask_rank)
        self.segments: list[tuple[mx.array, mx.array, mx.array | None]] = []  # keys, values, rows

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append [b, heads, new, d] and return all columns [b, heads, held, d]."""
        self.append(keys, values)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """All columns [b, heads, held, d], joined here."""
        every = [(take(keys, rows), take(values, rows)) for keys, values, rows in self.segments]
        joined, other = (mx.concatenate(list(side), axis=2) for side in zip(*every, strict=True))
        return joined, other

    def hold(self, keys: mx.array, values: mx.array) -> None:
        """Begin with these columns [b, heads, held, d]."""
        self.append(keys, values)

    def with_rows(self, layout: Layout | None, rows: mx.array | None) -> GrowingCache:
        """These rows [n], None for all, whose columns stand as ``layout`` says."""
        twin = SegmentedCache(self.mask_rank)
        twin.held, twin.layout = self.held, layout
        for keys, values, old in self.segments:
            new = old if rows is None else rows if old is None else old[rows]
            twin.segments.append((keys, values, new))
        return twin

    def twin(self, state: Sequence[mx.array]) -> SegmentedCache:
        """A cache in this one's place that holds these arrays in its segments."""
        made = SegmentedCache(self.mask_rank)
        made.held, made.layout = self.held, self.layout
        rows = [segment[2] for segment in self.segments]
        made.segments = list(zip(state[::2], state[1::2], rows, strict=True))
        return made

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Take what a block has made of new tokens [b, heads, new, d]."""
        self.held += keys.shape[2]
        self.segments.append((keys, values, None))

    def trim(self, columns: int) -> None:
        """Forget the last columns, all of the last segment."""
        self.held -= columns
        keys, values, rows = self.segments.pop()
        self.segments.append((keys[..., :-columns, :], values[..., :-columns, :], rows))

    def written(self, held: int) -> list[mx.array]:
        """Keys and values of the segments that a block has appended."""
        return self.state[held:]

    def extend(self, arrays: Sequence[mx.array]) -> None:
        """Take keys and values of several segments in turn."""
        for keys, values in zip(arrays[::2], arrays[1::2], strict=True):
            self.append(keys, values)

    def since(self, held: int) -> tuple[mx.array, mx.array] | None:
        """Keys and values of the last segment, which begins after the first ``held`` columns."""
        return None if self.held == held else self.segments[-1][:2]

    @property
    def state(self) -> list[mx.array]:
        """Keys and values of each segment in turn."""
        return [array for segment in self.segments for array in segment[:2]]


Columns = tuple[mx.array, mx.array]  # keys and values [b, heads, columns, d]


def stack(parts: Sequence[Columns | None], counts: Sequence[int], width: int) -> Columns | None:
    """Rows of all parts below one another, columns padded with zeros; None where all are.

    Args:
        parts: of one layer; None has no column.
        counts: rows of each.
        width: columns of what is made.
    """
    known = next((part for part in parts if part is not None), None)
    if known is None:
        return None
    sides = []
    for side, like in enumerate(known):
        padded = []
        for part, count in zip(parts, counts, strict=True):
            if part is None:
                shape = (count, like.shape[1], width, like.shape[3])
                padded.append(mx.zeros(shape, like.dtype))
            else:
                room = width - part[side].shape[2]
                padded.append(mx.pad(part[side], [(0, 0), (0, 0), (0, room), (0, 0)]))
        sides.append(mx.concatenate(padded))
    return sides[0], sides[1]
