"""``mipo bench``: what this machine does in a few minutes, in numbers that compare.

Each model is sampled from and trained on for a step, by the code that ``mipo generate`` and ``mipo
train`` run. The step is held against the plain one in the same process, in turn. What is predicted
not to fit memory or time is not begun.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mipo_mlx.bench import subjects
from mipo_mlx.bench.measure import Bench
from mipo_mlx.bench.results import BenchResult, Machine
from mipo_mlx.bench.rounds import Clock
from mipo_mlx.bench.subjects import Subject
from mipo_mlx.bench.work import WORKS
from mipo_mlx.errors import ConfigError
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.memory import allocator_within, limit_bytes
from mipo_mlx.models.random_weights import PRECISIONS, SHAPES
from mipo_mlx.run_dir.environment import here
from mipo_mlx.types import Progress


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
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        cores=os.cpu_count() or 1,
        versions={"python": str(known["python"]), **known["versions"]},
    )


def bench(request: BenchRequest, on_progress: Progress) -> BenchResult:
    """Measure what is asked for; what does not fit is told in ``skipped``.

    Raises:
        ConfigError: a shape, a precision or a kind of work is unknown.
        ModelError: the model cannot be opened, or its configuration lacks what is needed.
    """
    wanted = _subjects(request)
    works = _checked(request.works, tuple(WORKS), "--work") or tuple(WORKS)
    result = BenchResult(machine(limit_bytes(request.memory_limit)))
    clock = Clock(60 * request.minutes, len(wanted) * (1 + len(works)))
    runs = Bench(result, works, clock, on_progress)
    with uncompiled_on_cpu(), allocator_within(request.memory_limit):
        for subject in wanted:
            runs.subject(subject)
            mx.clear_cache()
    return result
