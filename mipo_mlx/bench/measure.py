"""One model after the other, sampled from and trained for a step, in turn with the plain step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mipo_mlx.bench.rate import matmul_rate
from mipo_mlx.bench.results import BenchResult, SamplingRow, Skipped, StepRow
from mipo_mlx.bench.rounds import Clock, in_turn
from mipo_mlx.bench.subjects import Subject
from mipo_mlx.bench.work import (
    BETA,
    SAMPLING,
    WORKS,
    Work,
    plain_gradient,
    rows_of,
    step_flops,
    two_rows,
)
from mipo_mlx.config import TrainConfig
from mipo_mlx.errors import device_error
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.sampling import Sampling, respond
from mipo_mlx.models import lora
from mipo_mlx.training.compile import Compiled
from mipo_mlx.training.memory_model import plain_bytes
from mipo_mlx.training.memory_plan import choose
from mipo_mlx.training.step import Gradients
from mipo_mlx.types import Progress

EXPECTED = 0.1  # of the matmul rate, to tell whether something would take too long
RANK, SCALE = 8, 20.0


def duration(seconds: float) -> str:
    """Seconds in words, in minutes where they are many."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


class Bench:
    """The measurements of one subject after the other, put into one result.

    Args:
        result: to be filled; its machine has the limit of memory.
        works: names of ``WORKS``.
        clock: a piece for each subject's sampling, and one for each of its works.
        tell: told of progress.
    """

    def __init__(
        self, result: BenchResult, works: Sequence[str], clock: Clock, tell: Progress
    ) -> None:
        self.result, self.works, self.clock, self.tell = result, works, clock, tell
        self.limit = result.machine.limit
        self.done, self.total = 0, clock.pieces

    def _skip(self, subject: Subject, what: str, why: str) -> None:
        self.result.skipped.append(Skipped(subject.name, subject.precision, what, why))

    def _rate(self, subject: Subject) -> float:
        """FLOP/s of a matrix product: the best seen so far, looked at once more each time."""
        name = str(subject.dtype).rpartition(".")[2]
        seconds = 1.0 if name not in self.result.rates else 0.3
        seen = matmul_rate(subject.dtype, seconds)
        self.result.rates[name] = max(seen, self.result.rates.get(name, 0.0))
        return self.result.rates[name]

    def _too_long(self, subject: Subject, tokens: int, answers: int) -> str:
        """Why work would take too long, a round to warm up included; "" where it would not."""
        flops = step_flops(subject.dimensions, tokens, answers)
        seconds = 2 * flops / (EXPECTED * self._rate(subject))
        if seconds <= self.clock.left:
            return ""
        return f"two rounds would take about {duration(seconds)}; give more --minutes"

    def _too_large(self, size: float) -> str:
        if size <= self.limit:
            return ""
        needed, there = size / 2**30, self.limit / 2**30
        return f"it would take {needed:.1f} GiB, more than the limit of {there:.1f} GiB"

    def _attempt(self, subject: Subject, what: str, measure: Callable[[float], None]) -> None:
        """One measurement, with its share of the time; out of memory is told, not raised."""
        self.tell(f"bench, {subject.name} {subject.precision} {what}", self.done, self.total)
        try:
            measure(self.clock.share())
        except (RuntimeError, MemoryError) as error:
            fault = device_error(error)
            if fault is None:
                raise
            self._skip(subject, what, fault.message)
        mx.clear_cache()
        self.done += 1
        self.tell("bench", self.done, self.total)

    def subject(self, subject: Subject) -> None:
        """All that is to be measured of one model."""
        least = WORKS[self.works[0]]
        why = self._too_large(subject.weights) or self._too_long(subject, least.distinct, 0)
        if why:
            self._skip(subject, "all", why)
            for _ in range(1 + len(self.works)):
                self.clock.share()
            self.done += 1 + len(self.works)
            return
        lm = subject.build()
        self._attempt(subject, "sampling", partial(self._sampling, subject, lm))
        lora.attach(lm, rank=RANK, scale=SCALE, num_layers=-1, seed=0)
        mx.random.seed(1)  # no factor is 0, so that no part of the gradient is
        lm.model.update(
            tree_map(
                lambda a: a + 0.01 * mx.random.normal(a.shape), lm.model.trainable_parameters()
            )
        )
        lm.model.train()
        for name in self.works:
            self._attempt(subject, name, partial(self._step, subject, lm, name))

    def _sampling(self, subject: Subject, lm: Any, seconds: float) -> None:
        jobs = SAMPLING.jobs(subject.dimensions.vocabulary)
        sampling = Sampling(max_tokens=SAMPLING.answer, memory_limit=self.limit - subject.weights)
        tally = Tally()

        def answers() -> int:
            counted = tally if not tally.unshared else None
            return sum(len(r.token_ids) for _, r in respond(lm, jobs, sampling, counted))

        rounds = in_turn({"ours": answers}, seconds)
        self.result.sampling.append(
            SamplingRow(
                model=subject.name,
                precision=subject.precision,
                tokens=rounds.first["ours"],
                prompt_tokens=tally.unshared,
                forwarded=tally.forwarded,
                timing=rounds.timing("ours"),
            )
        )

    def _step(self, subject: Subject, lm: Any, name: str, seconds: float) -> None:
        work, of = WORKS[name], subject.dimensions
        rows = rows_of(work, of.vocabulary)
        config = TrainConfig(beta=BETA, batch_size=work.pairs)
        weights, trained = (
            sum(array.nbytes for array in dict(tree_flatten(tree)).values())
            for tree in (lm.model.parameters(), lm.model.trainable_parameters())
        )
        fixed = weights + 2 * trained  # the gradient of a part, and the sum
        plan = choose([rows], config, of, fixed=fixed, limit=self.limit, paths=lm.paths)
        answers = 2 * work.pairs * work.answer
        why = self._too_large(plan.peak) or self._too_long(subject, work.distinct, answers)
        if why:
            self._skip(subject, name, why)
            return
        gradients = Gradients(lm, config, plan)
        rivals: dict[str, Callable[[], Any]] = {"ours": lambda: gradients(rows)[1]}
        expected = weights + trained + plain_bytes(2 * work.pairs, _width(work), work.answer, of)
        why = self._too_large(expected) or self._too_long(subject, work.repeated, work.repeated)
        if why:
            self._skip(subject, f"{name}, plain step", why)
        else:
            rivals["plain"] = _plain(lm.model, two_rows(rows))
        rounds = in_turn(rivals, seconds, _distance)
        plain = rounds.timing("plain", expected) if "plain" in rivals else None
        self.result.steps.append(
            StepRow(
                model=subject.name,
                precision=subject.precision,
                work=name,
                plan=str(plan).removeprefix("plan: ").partition(";")[0],
                flops=step_flops(of, work.distinct, answers),
                rate=self._rate(subject),
                ours=rounds.timing("ours", plan.peak),
                plain=plain,
                distance=rounds.first.get("distance"),
            )
        )


def _width(work: Work) -> int:
    return work.context + work.question + work.answer - 1


def _plain(model: Any, arrays: list[mx.array]) -> Callable[[], Any]:
    """The plain step, compiled where ours is."""
    if mx.default_device() == mx.Device(mx.cpu):
        return lambda: plain_gradient(model, arrays)
    compiled = Compiled(model, lambda given: plain_gradient(model, given))
    return lambda: compiled(arrays)


def _distance(gradients: dict[str, Any]) -> dict[str, float]:
    """Relative L2 distance of our gradient from the plain one."""
    if "plain" not in gradients:
        return {}
    ours, plain = (dict(tree_flatten(gradients[name])) for name in ("ours", "plain"))
    gap = sum(((ours[name] - plain[name]) ** 2).sum().item() for name in plain)
    size = sum((array**2).sum().item() for array in plain.values())
    return {"distance": float((gap / size) ** 0.5)}
