"""How a training step is cut so that it fits the memory there is, decided before the first step.

What costs time is avoided as long as memory allows: whole batches first, then fewer pairs at once,
activations made again, fewer logits at once. All of these give the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import batches
from mipo_mlx.inference.prefix_tree import Row, common_length, forwarded
from mipo_mlx.models.load import EVERY_PATH, Paths
from mipo_mlx.training.collate import Stems, TrainingRow, nodes
from mipo_mlx.training.memory_model import Bunch, Dimensions, Geometry, step_bytes
from mipo_mlx.training.objectives import objective_of

AT_ONCE = 8192  # tokens forwarded at once, unless a context's pairs alone are more
WORTH_SHARING = 0.1  # a context this much of its pairs' own tokens keeps them together
AGAIN = 4 / 3  # time of a checkpointed step: forward, backward, and forward once more
LEAST_LOGITS = 16 * 2**20
PIECE = 256  # tokens of a prompt forwarded at once, where prompts are taken in pieces
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
        piece: tokens of prompts that are forwarded at once, by themselves; 0 is all of them, along
            with what follows.
    """

    micro_batch: int
    recompute: bool
    logits: int
    peak: int = 0
    limit: int = 0
    piece: int = 0

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    def __str__(self) -> str:
        parts = [f"{self.micro_batch} pairs at once"]
        parts += [f"prompts by {self.piece} tokens"] if self.piece else []
        parts += ["checkpointed"] if self.recompute else []
        parts += [f"logits in {self.logits / 2**20:.0f} MiB" if self.logits else "logits whole"]
        text = "plan: " + ", ".join(parts)
        if self.peak:
            text += f"; predicted peak {self.peak / 2**30:.2f} of {self.limit / 2**30:.2f} GiB"
        return text if self.fits else f"{text}: it may not fit"


def micro_batches(rows: Sequence[TrainingRow], most: int, at_once: int) -> list[list[int]]:
    """Indices of the rows that are forwarded together, every row once; ``bunches`` in a row."""
    return [part for bunch in bunches(rows, most, at_once) for part in bunch]


def bunches(rows: Sequence[TrainingRow], most: int, at_once: int) -> list[list[list[int]]]:
    """Indices of the rows that are forwarded together, those of one context side by side.

    Rows of one context stay together where forwarding it again would cost more than
    ``WORTH_SHARING`` of their own tokens; such parts are then packed up to a number of tokens. What
    is cut apart for the sake of ``most`` alone makes a bunch, if it is of one context; prompts of
    like lengths come together then, for those of equal ones need no padding.

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
    found = []
    for part in made:
        one = len({rows[index].encoded.group or f"\0{index}" for index in part}) == 1
        if one and len(part) > most:
            part = sorted(part, key=lambda index: len(rows[index].encoded.prompt_ids))
        cut = [part[i : i + most] for i in range(0, len(part), most)]
        found += [cut] if one else [[each] for each in cut]
    return found


def steps_of(rows: Sequence[TrainingRow], per_step: int, seed: int) -> list[list[TrainingRow]]:
    """Some steps of a first epoch, the longest one among them."""
    plan = batches([row.encoded for row in rows], per_step, seed=seed, epoch=0)
    every = max(1, -(-len(plan) // LOOK_AT))
    longest = max(plan, key=lambda step: sum(rows[index].tokens for index in step))
    return [[rows[index] for index in step] for step in [*plan[::every], longest]]


def _tried(config: TrainConfig, checkpoints: bool, pieces: bool) -> Iterator[Plan]:
    """Ways to take a step that options and model leave open, none of them decided twice."""
    most = config.micro_batch_size or config.batch_size
    sizes = [most]
    while sizes[-1] > 1 and not config.micro_batch_size:
        sizes.append(sizes[-1] // 2)
    logits = int(config.logits_memory * 2**30)
    budgets = [logits]
    while budgets[-1] // 4 >= LEAST_LOGITS:
        budgets.append(budgets[-1] // 4)
    recomputes = (True,) if config.gradient_checkpointing else (False, True)
    at_once = (config.prompt_piece,) if config.prompt_piece else (0, PIECE)
    for size in sizes:
        for recompute in recomputes if checkpoints else (False,):
            for piece in at_once if pieces else (0,):
                for budget in budgets:
                    yield Plan(size, recompute, budget, piece=piece)


def choose(
    steps: Sequence[Sequence[TrainingRow]],
    config: TrainConfig,
    of: Dimensions,
    *,
    fixed: int,
    limit: int,
    paths: Paths = EVERY_PATH,
) -> Plan:
    """The quickest plan that fits, or the leanest when none does.

    Args:
        steps: rows of optimizer steps.
        config: what it leaves open is chosen.
        of: the model's dimensions.
        fixed: bytes of weights, adapter, its gradient and the optimizer.
        limit: bytes there are.
        paths: how the model may be run.
    """
    crossed = objective_of(config).crossed
    known: dict[tuple[int, bool, int], tuple[list[Geometry | Bunch], float]] = {}
    best: tuple[tuple[bool, float, int], Plan] | None = None
    for tried in _tried(config, paths.checkpoints, paths.pieces and paths.shares):
        key = (tried.micro_batch, tried.recompute, tried.piece)
        if key not in known:
            known[key] = cut(steps, tried, crossed, paths.shares)
        forests, tokens = known[key]
        logits = tried.logits if paths.splits else 0
        step = max(
            step_bytes(forest, of, budget=logits, recompute=tried.recompute) for forest in forests
        )
        peak = fixed + step
        plan = replace(tried, logits=logits, peak=peak, limit=limit)
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
    steps: Sequence[Sequence[TrainingRow]], plan: Plan, crossed: bool, shares: bool
) -> tuple[list[Geometry | Bunch], float]:
    """All that is forwarded together in some steps, and the tokens that it forwards.

    A token that is forwarded again for the gradient counts as a part of one; ``crossed`` is that
    of the objective.
    """
    found: list[Geometry | Bunch] = []
    tokens = 0.0
    for rows in steps:
        for bunch in bunches(rows, plan.micro_batch, AT_ONCE):
            parts = [nodes([rows[index] for index in part], crossed) for part in bunch]
            if plan.piece and shares:
                made, again = _in_pieces(parts, plan)
                tokens += again
                if made:
                    found.append(made)
                    tokens += tokens_of([node for part in parts for node in part], shares)
                    continue
            for part in parts:
                found.append(Geometry.of(part, shares=shares))
                tokens += tokens_of(part, shares)
    return found, tokens


def _in_pieces(parts: Sequence[Sequence[Row]], plan: Plan) -> tuple[Bunch | None, float]:
    """A bunch whose prompts are forwarded by themselves, where they are, and what it adds."""
    stems = Stems([node for part in parts for node in part])
    if not by_pieces(stems.tokens, len(parts), plan.piece):
        return None, 0.0
    after = [
        Geometry.after(part, [len(stems.tokens[stems.owner(node)]) for node in part])
        for part in parts
    ]
    lengths = [len(ids) for ids in stems.tokens]
    columns = max(1, plan.piece // len(lengths))
    return Bunch.of(lengths, columns, after), (AGAIN - 1) * sum(lengths)


def by_pieces(stems: Sequence[tuple[int, ...]], parts: int, piece: int) -> bool:
    """Whether prompts are worth forwarding by themselves: several batches share them, or long."""
    size = len(stems) * max(map(len, stems))
    return size > 0 and (parts > 1 or size > piece)
