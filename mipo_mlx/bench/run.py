"""``mipo bench``: what this machine does in a few minutes, in numbers that compare.

Each model is sampled from and trained on for a step, by the code that ``mipo generate`` and ``mipo
train`` run. The step is held against the plain one in the same process, in turn. What is predicted
not to fit memory or time is not begun.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mipo_mlx.bench import subjects
from mipo_mlx.bench.rate import matmul_rate
from mipo_mlx.bench.results import BenchResult, Machine, SamplingRow, Skipped, StepRow
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
from mipo_mlx.errors import ConfigError, device_error
from mipo_mlx.lm import adapter
from mipo_mlx.lm.buckets import Compiled
from mipo_mlx.lm.footprint import plain_bytes
from mipo_mlx.lm.memory import allocator_within, limit_bytes
from mipo_mlx.lm.prefill import Tally
from mipo_mlx.lm.respond import Sampling, respond
from mipo_mlx.machine import here
from mipo_mlx.models.random_weights import PRECISIONS, SHAPES
from mipo_mlx.plan import choose
from mipo_mlx.reference import Progress
from mipo_mlx.step import Gradients

EXPECTED = 0.1  # of the matmul rate, to tell whether something would take too long
RANK, SCALE = 8, 20.0


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        shapes: of ``SHAPES``; none takes one that suits the device.
        model: a model to open instead, as of ``--model``; "" is none.
        precisions: of ``PRECISIONS``, for shapes; none takes what suits the device.
        works: of ``WORKS``; none takes all.
        minutes: for all; one round of each is taken even where they do not suffice.
        memory_limit: in GiB; 0 is as of ``limit_bytes``.
        offline: refuse the network.
    """

    shapes: tuple[str, ...] = ()
    model: str = ""
    precisions: tuple[str, ...] = ()
    works: tuple[str, ...] = ()
    minutes: float = 5.0
    memory_limit: float = 0.0
    offline: bool = False


def _checked(given: Sequence[str], known: Sequence[str], option: str) -> tuple[str, ...]:
    """The names given, each of them known.

    Raises:
        ConfigError: one is not.
    """
    for name in given:
        if name not in known:
            raise ConfigError(f"{option}: {name!r} is unknown.", f"choose from {', '.join(known)}")
    return tuple(dict.fromkeys(given))


def _subjects(request: BenchRequest) -> list[Subject]:
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    shapes = _checked(request.shapes, tuple(SHAPES), "--shape")
    precisions = _checked(request.precisions, PRECISIONS, "--precision")
    if request.model:
        if shapes or precisions:
            raise ConfigError(
                "--model stands in place of --shape and --precision.", "leave those out"
            )
        return [subjects.opened(request.model, request.offline)]
    shapes = shapes or ("smollm2-135m" if on_cpu else "qwen2.5-0.5b",)
    precisions = precisions or (("fp32",) if on_cpu else ("bf16", "4bit"))
    return [subjects.random(shape, precision) for shape in shapes for precision in precisions]


def duration(seconds: float) -> str:
    """Seconds in words, in minutes where they are many."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _system() -> str:
    mac = platform.mac_ver()[0]
    return f"{f'macOS {mac}' if mac else platform.system()} {platform.machine()}"


def machine(limit: int) -> Machine:
    """This machine, without anything that tells whose it is."""
    known = here()
    backend, _, chip = str(known["device"]).partition(": ")
    return Machine(
        chip=chip,
        system=_system(),
        backend="cpu" if "cpu" in backend else "gpu",
        memory=int(known["memory_bytes"]),
        limit=limit,
        versions={"python": str(known["python"]), **known["versions"]},
    )


class _Bench:
    """The measurements of one subject after the other, put into one result."""

    def __init__(self, request: BenchRequest, wanted: list[Subject], tell: Progress) -> None:
        self.limit = limit_bytes(request.memory_limit)
        self.works = _checked(request.works, tuple(WORKS), "--work") or tuple(WORKS)
        self.result = BenchResult(machine(self.limit))
        self.clock = Clock(60 * request.minutes, len(wanted) * (1 + len(self.works)))
        self.tell, self.done, self.total = tell, 0, self.clock.pieces

    def _skip(self, subject: Subject, what: str, why: str) -> None:
        self.result.skipped.append(Skipped(subject.name, subject.precision, what, why))

    def _rate(self, subject: Subject) -> float:
        dtype = subject.dtype
        name = str(dtype).rpartition(".")[2]
        if name not in self.result.rates:
            self.result.rates[name] = matmul_rate(dtype)
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
        adapter.attach(lm, rank=RANK, scale=SCALE, num_layers=-1, seed=0)
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
        plan = choose(
            [rows], config, of, fixed=fixed, limit=self.limit, shares=lm.shares, splits=lm.splits
        )
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


def bench(request: BenchRequest, on_progress: Progress) -> BenchResult:
    """Measure what is asked for; what does not fit is told in ``skipped``.

    Raises:
        ConfigError: a shape, a precision or a kind of work is unknown.
        ModelError: the model cannot be opened, or its configuration lacks what is needed.
    """
    wanted = _subjects(request)
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()  # it would call the system's C++ compiler for every kernel
    runs = _Bench(request, wanted, on_progress)
    with allocator_within(request.memory_limit):
        for subject in wanted:
            runs.subject(subject)
            mx.clear_cache()
    return runs.result
