"""Rivals timed in turn, as many rounds as there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mipo_mlx.bench.results import Timing

MOST = 5  # rounds, after one that warms up


class Clock:
    """Time shared out among pieces of work that are left.

    Args:
        seconds: for all of them.
        pieces: how many there are.
    """

    def __init__(self, seconds: float, pieces: int) -> None:
        self.end = time.perf_counter() + seconds
        self.pieces = pieces

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.perf_counter())

    def share(self) -> float:
        """Seconds for the next piece: what others have not used is shared out anew."""
        share = self.left / max(1, self.pieces)
        self.pieces -= 1
        return share


@dataclass(frozen=True)
class Rounds:
    """Seconds and peak bytes of each rival, and what the first round of each returned."""

    seconds: dict[str, list[float]]
    peaks: dict[str, int]
    first: dict[str, Any]

    def timing(self, name: str, predicted: int = 0) -> Timing:
        return Timing(tuple(self.seconds[name]), self.peaks[name], predicted)


def _once(work: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds, peak bytes (weights included) and result of one call, all of it evaluated."""
    mx.synchronize()
    mx.reset_peak_memory()
    start = time.perf_counter()
    result = work()
    mx.eval(result)
    mx.synchronize()
    return time.perf_counter() - start, mx.get_peak_memory(), result


def in_turn(
    rivals: Mapping[str, Callable[[], Any]],
    seconds: float,
    look: Callable[[dict[str, Any]], Any] = dict,
) -> Rounds:
    """Each rival once to warm up, then all in turn, again and again.

    Args:
        rivals: by name; what they return must be arrays, or trees of arrays or numbers.
        seconds: for all rounds; one after the first is taken in any case, and never more than
            ``MOST``.
        look: what to keep of the first results, which are freed before rounds are timed.
    """
    end = time.perf_counter() + seconds
    first = look({name: _once(work)[2] for name, work in rivals.items()})
    times: dict[str, list[float]] = {name: [] for name in rivals}
    peaks = dict.fromkeys(rivals, 0)
    for turn in range(MOST):
        took = sum(each[-1] for each in times.values() if each)
        if turn and time.perf_counter() + took > end:
            break
        for name, work in rivals.items():
            spent, peak, _ = _once(work)
            times[name].append(spent)
            peaks[name] = max(peaks[name], peak)
    return Rounds(times, peaks, first)
