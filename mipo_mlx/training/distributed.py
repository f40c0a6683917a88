"""Training on several machines or processes: ``mlx.launch`` starts them, each takes its rows.

Gradients and figures are summed over all and divided by the rows of the whole step, so the step is
that of a single process. Without a launcher there is one rank, and nothing is sent.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

Item = TypeVar("Item")
LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # what launchers leave in the air


class Ranks:
    """The processes of one training, this one among them.

    Args:
        alone: leave the others out.
    """

    def __init__(self, *, alone: bool = False) -> None:
        launched = not alone and any(name in os.environ for name in LAUNCHED)
        self.group = mx.distributed.init() if launched else None
        self.rank = self.group.rank() if self.group else 0
        self.size = self.group.size() if self.group else 1

    def mine(self, rows: Sequence[Item]) -> list[Item]:
        """This rank's part of a step's rows; neighbours, who share contexts, stay together."""
        count = len(rows)
        return list(rows[self.rank * count // self.size : (self.rank + 1) * count // self.size])

    def total(self, tree: Any) -> Any:
        """Sum over ranks of each array of a tree."""
        if self.group is None or self.size == 1:
            return tree
        mean = nn.average_gradients(tree, self.group)
        return tree_map(lambda array: array * self.size, mean)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sum over ranks of each number, in fp32."""
        if self.size == 1:
            return list(values)
        sums: list[float] = np.array(self.total(mx.array(list(values), dtype=mx.float32))).tolist()
        return sums

    def agree(self, text: str) -> bool:
        """Whether all ranks hold the same text."""
        if self.group is None or self.size == 1:
            return True
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)
        every = np.array(mx.distributed.all_gather(mx.array(digest)[None], group=self.group))
        return bool((every == digest).all())

    def text_from_first(self, text: str) -> str:
        """The first rank's text."""
        if self.size == 1:
            return text
        raw = np.frombuffer(text.encode(), dtype=np.uint8)
        (length,) = self.sums([len(raw) if self.rank == 0 else 0])
        line = np.zeros(int(length), dtype=np.int32)
        if self.rank == 0:
            line[:] = raw
        whole = np.array(mx.distributed.all_sum(mx.array(line), group=self.group))
        return whole.astype(np.uint8).tobytes().decode()

    def from_first(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """The first rank's arrays, by name; all ranks hold the same names and shapes."""
        if self.size == 1:
            return dict(arrays)
        summed = {}
        for name in sorted(arrays):  # the same order everywhere, each sent before the next
            array = arrays[name] if self.rank == 0 else mx.zeros_like(arrays[name])
            summed[name] = mx.distributed.all_sum(array, group=self.group)
            mx.eval(summed[name])
        return summed
