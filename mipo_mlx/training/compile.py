"""A compiled gradient for few shapes: widths are rounded up, so that batches meet them again.

``mx.compile`` traces anew for each shape that it is given. At most ``MOST`` are compiled in a run;
a batch of yet another shape is run as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mipo_mlx.inference.prefix_tree import Forest

MOST = 16
log = logging.getLogger("mipo_mlx")


def rounded(count: int) -> int:
    """The next of 0, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, ..."""
    step = max(16, 1 << max(0, max(count - 1, 0).bit_length() - 3))
    return -(-count // step) * step


def _wider(tokens: mx.array) -> mx.array:
    return mx.pad(tokens, [(0, 0), (0, rounded(tokens.shape[1]) - tokens.shape[1])])


def padded(forest: Forest) -> Forest:
    """The same forest with rounded widths; ``real`` is filled up with a place beyond the last."""
    old, responses = forest.responses.shape[1], _wider(forest.responses)
    width = responses.shape[1]
    real = forest.real // old * width + forest.real % old
    room = (0, rounded(real.size) - real.size)
    stems, branches = _wider(forest.stems), _wider(forest.branches)
    return forest._replace(
        stems=stems,
        branches=branches,
        responses=responses,
        mask=_wider(forest.mask),
        real=mx.pad(real, room, constant_values=mx.array(responses.size)),
        even_stems=forest.even_stems and stems.shape == forest.stems.shape,
        even_branches=forest.even_branches and branches.shape == forest.branches.shape,
    )


class Compiled:
    """A function of arrays and a model's trained weights, compiled for the first ``MOST`` shapes.

    Args:
        model: its frozen weights must stay as they are.
        function: of a list of arrays; it must not evaluate any.
    """

    def __init__(self, model: nn.Module, function: Callable[[list[mx.array]], Any]) -> None:
        def traced(weights: Any, arrays: list[mx.array]) -> Any:
            model.update(weights)
            return function(arrays)

        self.model, self.plain = model, function
        self.compiled: Any = mx.compile(traced)
        self.shapes: set[tuple[tuple[int, ...], ...]] = set()

    def __call__(self, arrays: list[mx.array]) -> Any:
        shape = tuple(array.shape for array in arrays)
        if shape not in self.shapes and len(self.shapes) == MOST:
            return self.plain(arrays)
        if shape not in self.shapes:
            self.shapes.add(shape)
            log.info("compiled shape %d of at most %d: %s", len(self.shapes), MOST, shape[:7:3])
        weights = self.model.trainable_parameters()
        try:
            return self.compiled(weights, arrays)
        finally:
            self.model.update(weights)  # tracing leaves its own arrays there
