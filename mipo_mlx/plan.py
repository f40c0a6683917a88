"""How a training step is cut so that it fits the memory there is, decided before the first step.

What costs time is avoided as long as memory allows: whole batches first, then fewer pairs at once,
activations made again, fewer logits at once. All of these give the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batch import batches
from mipo_mlx.lm.footprint import Dimensions, Geometry, step_bytes
from mipo_mlx.lm.forest import Row, common_length, forwarded
from mipo_mlx.objectives import TrainingRow, nodes

AT_ONCE = 8192  # tokens forwarded at once, unless a context's pairs alone are more
WORTH_SHARING = 0.1  # a context this much of its pairs' own tokens keeps them together
AGAIN = 4 / 3  # time of a checkpointed step: forward, backward, and forward once more
LEAST_LOGITS = 16 * 2**20
LOOK_AT = 256  # steps whose memory is predicted, spread over an epoch


@dataclass(frozen=True)
class Plan:
    """How a step is taken.

    Attributes:
        micro_batch: most pairs forwarded at once.
        recompute: blocks are checkpointed.
        logits: bytes of logits at once; 0 is all of them.
        peak: predicted bytes, with weights and optimizer; 0 is unknown.
        limit: bytes there are.
    """

    micro_batch: int
    recompute: bool
    logits: int
    peak: int = 0
    limit: int = 0

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    def __str__(self) -> str:
        parts = [f"{self.micro_batch} pairs at once"]
        parts += ["checkpointed"] if self.recompute else []
        parts += [f"logits in {self.logits / 2**20:.0f} MiB" if self.logits else "logits whole"]
        text = "plan: " + ", ".join(parts)
        if self.peak:
            text += f"; predicted peak {self.peak / 2**30:.2f} of {self.limit / 2**30:.2f} GiB"
        return text if self.fits else f"{text}: it may not fit"


def micro_batches(rows: Sequence[TrainingRow], most: int, at_once: int) -> list[list[int]]:
    """Indices of the rows that are forwarded together, every row once.

    Rows of one context stay together where forwarding it again would cost more than
    ``WORTH_SHARING`` of their own tokens; such parts are then packed up to a number of tokens.

    Args:
        rows: of one optimizer step.
        most: rows at once; 0 is no bound.
        at_once: tokens at once; a part beyond it stands alone.
    """
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.encoded.group or f"\0{index}", []).append(index)
    parts: list[list[int]] = []
    for members in groups.values():
        prompts = [rows[index].encoded.prompt_ids for index in members]
        shared = common_length(prompts)
        own = sum(rows[index].tokens - shared for index in members)
        whole = shared > WORTH_SHARING * own
        parts += [members] if whole else [[index] for index in members]
    made: list[list[int]] = []
    room = 0
    for part in parts:
        size = sum(rows[index].tokens for index in part)
        if made and size <= room:
            made[-1] += part
            room -= size
        else:
            made.append(list(part))
            room = at_once - size
    most = most or len(rows)
    return [part[i : i + most] for part in made for i in range(0, len(part), most)]


def steps_of(rows: Sequence[TrainingRow], per_step: int, seed: int) -> list[list[TrainingRow]]:
    """Some steps of a first epoch, the longest one among them."""
    plan = batches([row.encoded for row in rows], per_step, seed=seed, epoch=0)
    every = max(1, -(-len(plan) // LOOK_AT))
    longest = max(plan, key=lambda step: sum(rows[index].tokens for index in step))
    return [[rows[index] for index in step] for step in [*plan[::every], longest]]


def _tried(config: TrainConfig) -> Iterator[Plan]:
    """Ways to take a step that the options leave open, none of them decided twice."""
    most = config.micro_batch_size or config.batch_size
    sizes = [most]
    while sizes[-1] > 1 and not config.micro_batch_size:
        sizes.append(sizes[-1] // 2)
    logits = int(config.logits_memory * 2**30)
    budgets = [logits]
    while budgets[-1] // 4 >= LEAST_LOGITS:
        budgets.append(budgets[-1] // 4)
    for size in sizes:
        for recompute in (False, True) if not config.gradient_checkpointing else (True,):
            for budget in budgets:
                yield Plan(size, recompute, budget)


def choose(
    steps: Sequence[Sequence[TrainingRow]],
    config: TrainConfig,
    of: Dimensions,
    *,
    fixed: int,
    limit: int,
    shares: bool = True,
    splits: bool = True,
) -> Plan:
    """The quickest plan that fits, or the leanest when none does.

    Args:
        steps: rows of optimizer steps.
        config: what it leaves open is chosen.
        of: the model's dimensions.
        fixed: bytes of weights, adapter, its gradient and the optimizer.
        limit: bytes there are.
        shares, splits: as of ``LanguageModel``.
    """
    known: dict[int, tuple[list[Geometry], int]] = {}
    best: tuple[tuple[bool, float, int], Plan] | None = None
    for tried in _tried(config):
        if tried.micro_batch not in known:
            known[tried.micro_batch] = cut(steps, tried.micro_batch, config.loss, shares)
        forests, tokens = known[tried.micro_batch]
        logits = tried.logits if splits else 0
        step = max(
            step_bytes(forest, of, budget=logits, recompute=tried.recompute) for forest in forests
        )
        peak = fixed + step
        plan = Plan(tried.micro_batch, tried.recompute, logits, peak, limit)
        seconds = tokens * (AGAIN if tried.recompute else 1.0)
        order = (False, seconds, 0) if plan.fits else (True, 0.0, peak)
        if best is None or order < best[0]:
            best = (order, plan)
    assert best is not None
    return best[1]


def tokens_of(rows: Sequence[Row], shares: bool) -> int:
    """Tokens that are forwarded for the answers of some prompts, padding aside."""
    if shares:
        return forwarded(rows)
    return sum(len(row.prompt_ids) + len(ids) - 1 for row in rows for ids in row.responses)


def cut(
    steps: Sequence[Sequence[TrainingRow]], most: int, loss: str, shares: bool
) -> tuple[list[Geometry], int]:
    """Forests of all micro-batches of some steps, and the tokens that they forward."""
    forests, tokens = [], 0
    for rows in steps:
        for part in micro_batches(rows, most, AT_ONCE):
            known = nodes([rows[index] for index in part], loss)
            forests.append(Geometry.of(known, shares=shares))
            tokens += tokens_of(known, shares)
    return forests, tokens
