"""How near a way of running a model must come to its plain ``__call__``.

In fp32 any fault of a way shows, so a model in half precision is made to compute in fp32 first. It
is then compared as it is: the way must be about as near to fp32 as the plain one. Where it cannot
be made to, the measure is how far rounding moves the plain way's own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mipo_mlx.errors import ModelError
from mipo_mlx.inference.precision import HALF, computes_in, nudged, widened

Numbers = Sequence[np.ndarray]  # fp32, of any shapes

EXACT = 1e-3  # distance, over the numbers' own size, that is no fault in whatever precision
NEAR = 3.0  # times the distance that rounding makes
TYPICAL = 0.75  # share of numbers compared in half precision, those that differ least


def described(error: Exception) -> str:
    """A fault of foreign code in a few words."""
    lines = str(error).strip().splitlines()
    said = lines[0][:160].rstrip(".") if lines else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def spread(found: Numbers, wanted: Numbers, share: float = 1.0) -> float:
    """Root mean square difference; NaN stays NaN.

    Args:
        found, wanted: of the same shapes.
        share: of all numbers, those that differ least. In half precision a router's near tie may
            fall either way, whichever way a model is run: few numbers then change by much.
    """
    one, other = (np.concatenate([each.ravel() for each in side]) for side in (found, wanted))
    gaps = np.abs(one - other)
    if share < 1 and np.isfinite(gaps).all():
        gaps = np.sort(gaps)[: max(1, int(share * len(gaps)))]
    return float(np.sqrt((gaps.astype(np.float64) ** 2).mean()))


def refused(name: str, noun: str, error: Exception) -> ModelError:
    """What is told of a model whose plain way fails."""
    return ModelError(
        f"{name}: plain {noun} cannot be had: {described(error)}.",
        "see whether mlx_lm.generate can run this model on this device",
    )


class Yardstick:
    """The plain way's numbers, and how near others must come.

    Args:
        name: of the model, for messages.
        model: it is left as it was.
        plain: makes the numbers by the model's own ``__call__`` alone.
        noun: what they are.

    Raises:
        ModelError: the plain way fails, or gives numbers that are not finite.
    """

    def __init__(self, name: str, model: Any, plain: Callable[[], Numbers], noun: str) -> None:
        self.model, self.plain, self.noun = model, plain, noun
        try:
            self.half = computes_in(model) in HALF
            self.numbers = plain()
            self.single = self.numbers  # the same in fp32
            self.widens = False
            if self.half:
                with widened(model) as self.widens:
                    self.single = plain() if self.widens else self.numbers
        except Exception as error:  # whatever a model's own code comes up with
            raise refused(name, noun, error) from error
        if not all(np.isfinite(values).all() for values in (*self.numbers, *self.single)):
            raise ModelError(
                f"{name}: {noun} of a plain sentence are not finite.",
                "try the model with mlx_lm.generate; half precision may be too narrow for it",
            )
        zeros = [np.zeros_like(values) for values in self.single]
        self.size = spread(self.single, zeros) or 1.0

    def steady(self) -> bool:
        """Whether the plain way gives the same numbers again."""
        return spread(self.plain(), self.numbers) <= EXACT * self.size

    def fault(self, way: Callable[[], Numbers]) -> str:
        """Why a way may not be taken, "" if it may; ``way`` is called where it is compared."""
        if not self.half:
            return self._compared(way(), self.single, 1.0)
        if not self.widens:
            return self._compared(way(), self.numbers, 1.0)
        with widened(self.model):
            wrong = self._compared(way(), self.single, 1.0)
        if wrong:
            return wrong
        own = spread(self.numbers, self.single, TYPICAL)
        return self._compared(way(), self.single, TYPICAL, own)

    def _compared(self, found: Numbers, wanted: Numbers, share: float, own: float = 0.0) -> str:
        """What is wrong with numbers in words, "" for nothing; ``own`` is the plain way's gap."""
        gap = spread(found, wanted, share)
        allowed = max(EXACT * self.size, NEAR * own)
        if gap <= allowed:
            return ""
        allowed = max(allowed, NEAR * self._rounding(share))
        if gap <= allowed:
            return ""
        return (
            f"{self.noun} are off by {gap / self.size:.2g} of their size, where rounding allows "
            f"{allowed / self.size:.1g}"
        )

    def _rounding(self, share: float) -> float:
        """How far one rounding of norms' weights moves the plain way's numbers, at most.

        0 where they move by themselves: that is no rounding.
        """
        before = self.plain()
        if spread(self.plain(), before) > EXACT * self.size:
            return 0.0
        gaps = []
        for seed in range(2):
            with nudged(self.model, seed):
                gaps.append(spread(self.plain(), before, share))
        return max(gaps)
