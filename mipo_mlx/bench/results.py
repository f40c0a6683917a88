"""What ``mipo bench`` measures, typed. Seconds are wall time, sizes bytes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Machine:
    """What may be told of a machine in public: no name of it, of a user or of a folder.

    Attributes:
        chip: as the device calls itself.
        system: operating system with its version, and the processor's kind.
        backend: ``gpu`` or ``cpu``, as MLX uses it.
        memory: bytes of the machine.
        limit: bytes that may be used.
        load: processes that wanted a core in the minute before, on average; None where unknown.
        cores: how many there are.
        versions: of Python and packages.
    """

    chip: str
    system: str
    backend: str
    memory: int
    limit: int
    load: float | None
    cores: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Timing:
    """One way to do a piece of work, rounds interleaved with those of its rivals.

    Attributes:
        seconds: of each round after the first, which warms up.
        peak: most bytes in use during a round, weights included.
        predicted: the same as told before anything ran; 0 where it was not predicted.
    """

    seconds: tuple[float, ...]
    peak: int
    predicted: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class SamplingRow:
    """Answers sampled in batches, prompts shared.

    Attributes:
        tokens: sampled in a round.
        prompt_tokens, forwarded: of all prompts whole, and of what was forwarded of them.
    """

    model: str
    precision: str
    tokens: int
    prompt_tokens: int
    forwarded: int
    timing: Timing

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.timing.median


@dataclass(frozen=True)
class StepRow:
    """The gradient of one training step: by ``mipo train``, and plainly by two rows a pair.

    Attributes:
        work: name of the batch's shape.
        plan: how ours was cut.
        flops: least of the linear layers and the head, each token once, forward and backward.
        rate: FLOP/s of one large matrix product in the precision that is computed in.
        distance: relative L2 distance of the two gradients; None where one is missing.
    """

    model: str
    precision: str
    work: str
    plan: str
    flops: float
    rate: float
    ours: Timing
    plain: Timing | None = None
    distance: float | None = None

    def share(self, timing: Timing) -> float:
        """Least FLOPs a second over the matmul rate: 1 is as good as it can be."""
        return self.flops / timing.median / self.rate


@dataclass(frozen=True)
class Skipped:
    """What was not measured, and why."""

    model: str
    precision: str
    what: str
    why: str


@dataclass
class BenchResult:
    """All that was measured."""

    machine: Machine
    rates: dict[str, float] = field(default_factory=dict)
    sampling: list[SamplingRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
