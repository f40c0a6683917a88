"""How far training, scoring and sampling are from a model's own forward pass, a row at a time.

``examine`` makes a small random model of ``zoo.toml`` a folder, opens it as the product does, and
compares. In fp32 the model's own ``__call__``, one whole sequence at a time, is the truth. In half
precision and in 4 bits the truth is the same with all that is not packed cast to fp32, and what
counts is how much further from it we are than the plain pass in that precision is.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import MipoError
from mipo_mlx.inference.compat_check import open_model, told
from mipo_mlx.inference.prefix_tree import Row, alone, plant, stems_of
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.inference.scoring import score_tokens
from mipo_mlx.models.load import LanguageModel, Paths, load_model
from mipo_mlx.models.lora import attach
from mipo_mlx.training import compat_check
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.gradients import forward_trunk, loss_gradient, trunk_gradient
from mipo_mlx.training.memory_plan import Plan

from . import zoo
from .archs import randomize_lora, tokenizer_files
from .plain_pass import Flat, plain_logits, plain_scores, plain_step, told_loss

PRECISIONS = ("fp32", "bf16", "4 bits")
CASES = ("loss", "gradient", "checkpointed", "in pieces", "scoring", "sampling")
EXACT = 2e-5  # relative distance that passes in fp32
TIE = 1e-3  # nats, fp32: tokens as likely as the likeliest
FURTHER = 1.2  # times the plain pass's distance from fp32
COLUMNS = 5  # of prompts, forwarded at once
BUDGET = 8 * zoo.COMMON["vocab_size"] * 7  # bytes: logits of seven tokens
MOST = 7  # new tokens
ROWS = 6  # prompts
RANK = 4
NO_CPU = "not on a CPU"  # a path
LACKING = "only supports float32"  # what MLX says on a CPU of mixtures of experts in half precision


@dataclass
class Case:
    """A distance from the truth, and the plain pass's own; or what came instead of numbers."""

    ours: float = 0.0
    plain: float = 0.0
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.plain if self.plain else float(self.ours > 0)


@dataclass
class Found:
    """Of one architecture in one precision.

    Attributes:
        path: "shared", "unshared" or "refused", and what else was given up.
        why: that was, as the product tells it.
        cases: by name; those that do not arise are missing.
    """

    name: str
    precision: str
    path: str = ""
    why: str = ""
    cases: dict[str, Case] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """Cases that are wrong, each with its figure; a refusal is none."""
        found = []
        for name, case in self.cases.items():
            if case.note:
                found += [f"{name}: {case.note}"] if case.note.startswith("error") else []
            elif self.precision == "fp32":
                most = TIE if name == "sampling" else EXACT
                found += [] if case.ours <= most else [f"{name}: {case.ours:.1e}"]
            elif not case.ratio <= FURTHER:
                found.append(f"{name}: {case.ratio:.2f} times")
        return found


# ---- the product, by its doors ------------------------------------------------------------------


PLAN = Plan(2, True, BUDGET, piece=COLUMNS)
WAYS = ("gradient", "checkpointed", "in pieces")


def trainable(lm: LanguageModel, rows: Sequence[Row]) -> LanguageModel:
    """The model on the paths that training would take if memory were short."""
    first = rows[0]
    pair = EncodedPair("0", first.prompt_ids, first.responses, first.group)
    known = TrainingRow(pair, (0.0,) * len(first.responses))
    trial = replace(lm)
    compat_check.check(trial, [known], TrainConfig(loss="mipo"), PLAN, {"rank": RANK})
    return trial


def path_of(paths: Paths) -> str:
    """Paths in words."""
    words = ["shared" if paths.shares else "unshared"]
    words += [] if paths.splits else ["head whole"]
    words += {"own": ["sampled singly"], "whole": ["sampled anew"]}.get(paths.sampling, [])
    return ", ".join(words)


def step(lm: LanguageModel, rows: Sequence[Row], recompute: bool) -> tuple[mx.array, Flat]:
    """Losses of rows, and the gradient of their sum."""
    forest = plant(rows) if lm.shares else alone(rows)
    budget = BUDGET if lm.splits else 0
    told, grads = loss_gradient(
        lm.model, forest, told_loss(rows), budget=budget, recompute=recompute
    )
    return told["losses"], dict(tree_flatten(grads))


def step_in_pieces(
    lm: LanguageModel, rows: Sequence[Row], recompute: bool
) -> tuple[mx.array, Flat]:
    """The same with prompts forwarded by themselves, in pieces, and rows in two batches."""
    stems, owner = stems_of([row.prompt_ids for row in rows], [row.group for row in rows])
    trunk = forward_trunk(lm.model, stems, COLUMNS * len(stems))
    losses, total = [], None
    for start, stop in pairwise([0, len(rows) // 2, len(rows)]):
        some = rows[start:stop]
        told, grads = loss_gradient(
            lm.model,
            plant(some, stems, owner[start:stop]),
            told_loss(some),
            budget=BUDGET if lm.splits else 0,
            recompute=recompute,
            trunk=trunk,
        )
        losses.append(told["losses"])
        total = grads if total is None else tree_map(mx.add, total, grads)
    last = trunk_gradient(lm.model, trunk, recompute=recompute)
    return mx.concatenate(losses), dict(tree_flatten(tree_map(mx.add, total, last)))


def scores(lm: LanguageModel, rows: Sequence[Row]) -> np.ndarray:
    """Log-probs of all response tokens, prompts in pieces and rows in several batches."""
    tables = score_tokens(lm, rows, max_batch_tokens=60)
    return np.concatenate([values for row in tables for values in row])


def answers(lm: LanguageModel, rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """Greedy answers to the prompts, three at a time."""
    jobs = [Job(str(index), row.prompt_ids, row.group) for index, row in enumerate(rows)]
    sampling = Sampling(temperature=0.0, max_tokens=MOST, batch_size=3)
    found = dict(respond(lm, jobs, sampling))
    return [found[job.key].token_ids for job in jobs]


# ---- data and models -----------------------------------------------------------------------------


def ragged(repeats: int, count: int, seed: int = 3) -> list[Row]:
    """Up to six prompts of 1 to 22 tokens with ``repeats`` responses of 1 to 9."""
    rng = np.random.default_rng(seed)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, zoo.COMMON["vocab_size"], size))

    long, short = ids(17), ids(4)
    prompts = [
        ("long", long + ids(5)),
        ("long", long + ids(2)),
        ("", ids(11)),
        ("short", (*short, 7)),
        ("", ids(1)),
        ("short", (*short, 9)),
    ][:count]
    sizes = rng.integers(1, 10, (count, repeats))
    return [
        Row(prompt, tuple(ids(int(size)) for size in row), group)
        for (group, prompt), row in zip(prompts, sizes, strict=True)
    ]


def opened(folder: Path, exact: bool) -> LanguageModel:
    """With an adapter that matters; ``exact`` computes in fp32 whatever the weights are."""
    lm = (load_model if exact else open_model)(str(folder))
    if exact:
        zoo.cast(lm.model, mx.float32)
    attach(lm, rank=RANK, scale=2.0, num_layers=-1, seed=0)
    randomize_lora(lm.model)
    return lm


# ---- comparing ----------------------------------------------------------------------------------


def distance(found: Any, truth: Any) -> float:
    """L2 over all arrays, relative to the truth's; NaN where a number is missing."""
    mine, theirs = (tree if isinstance(tree, dict) else {"": tree} for tree in (found, truth))
    if mine.keys() != theirs.keys():
        raise ValueError(f"gradients of {len(mine)} arrays, not {len(theirs)}")
    gap = size = 0.0
    for name, array in theirs.items():
        one, other = (mx.array(each).astype(mx.float32) for each in (mine[name], array))
        gap += float(((one - other) ** 2).sum())
        size += float((other**2).sum())
    return (gap / size) ** 0.5 if size else gap


@contextlib.contextmanager
def _guarded(found: Found, *names: str) -> Iterator[None]:
    """An exception is a note on the cases, not an end."""
    try:
        yield
    except MipoError as error:
        for name in names:
            found.cases[name] = Case(note=f"refused: {str(error).splitlines()[0]}")
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next(f for f in reversed(frames) if "/mlx/" not in f.filename)
        where = f"{Path(place.filename).name}:{place.lineno}"
        for name in names:
            found.cases[name] = Case(note=f"error: {type(error).__name__}: {error} ({where})")


def _pooled(found: Sequence[Any], plain: Sequence[Any], truth: Sequence[Any]) -> Case:
    """Root mean squares over batches."""

    def rms(each: Sequence[Any]) -> float:
        apart = [distance(one, other) for one, other in zip(each, truth, strict=True)]
        return float(np.sqrt(np.mean(np.square(apart))))

    return Case(rms(found), rms(plain))


def _compare_steps(found: Found, lm: LanguageModel, exact: LanguageModel) -> None:
    batches = [ragged(2, ROWS), ragged(4, 2)]  # K = 1 and 3
    trial = trainable(lm, batches[1])  # refused or not
    found.path = path_of(trial.paths)
    found.why = told(trial)
    truth = [plain_step(exact.model, rows) for rows in batches]
    plain = truth if lm is exact else [plain_step(lm.model, rows) for rows in batches]
    kept = {
        "checkpointed": trial.paths.checkpoints,
        "in pieces": trial.paths.pieces and trial.shares,
    }
    for name in WAYS:
        if not kept.get(name, True):
            found.cases[name] = Case(note="given up")
            continue
        lm.model.train()
        with _guarded(found, name):
            ours = _steps(trial, batches, name)
            if name == "gradient":
                losses = ([each[0] for each in steps] for steps in (ours, plain, truth))
                found.cases["loss"] = _pooled(*losses)
            grads = ([each[1] for each in steps] for steps in (ours, plain, truth))
            found.cases[name] = _pooled(*grads)
        lm.model.eval()


def _steps(
    lm: LanguageModel, batches: Sequence[Sequence[Row]], name: str
) -> list[tuple[mx.array, Flat]]:
    """By one of the plans."""
    if name != "in pieces":
        return [step(lm, rows, name == "checkpointed") for rows in batches]
    both = zip(batches, (False, lm.paths.checkpoints), strict=True)
    return [step_in_pieces(lm, rows, recompute) for rows, recompute in both]


def _compare_sampling(found: Found, lm: LanguageModel, exact: LanguageModel) -> None:
    """How far our tokens are below the likeliest, and how far plain logits may mislead, in nats."""
    rows = ragged(2, ROWS)
    drawn = answers(lm, rows)
    truth = plain_logits(exact.model, rows, drawn)
    picked = mx.array([token for ids in drawn for token in ids])[:, None]
    short = (truth.max(axis=-1) - mx.take_along_axis(truth, picked, axis=-1)[:, 0]).max()
    apart = 0.0
    if lm is not exact:
        apart = 2 * float(mx.abs(plain_logits(lm.model, rows, drawn) - truth).max())
    found.cases["sampling"] = Case(float(short), apart)


def _compare(found: Found, folder: Path) -> None:
    """All cases of a folder."""
    lm = opened(folder, exact=False)
    exact = lm if found.precision == "fp32" else opened(folder, exact=True)
    found.path = path_of(lm.paths)
    found.why = told(lm)
    rows = ragged(2, ROWS)
    with _guarded(found, "scoring"):
        truth, ours = plain_scores(exact.model, rows), scores(lm, rows)
        plain = truth if lm is exact else plain_scores(lm.model, rows)
        found.cases["scoring"] = _pooled([ours], [plain], [truth])
    with _guarded(found, "sampling"):
        _compare_sampling(found, lm, exact)
    with _guarded(found, "gradient"):
        _compare_steps(found, lm, exact)


def examine(name: str, precision: str, folder: Path) -> Found:
    """All cases of one architecture; whatever goes wrong is told, not raised."""
    found = Found(name, precision)
    folder = folder / name
    try:
        zoo.save(folder, name, precision)
    except TypeError as error:  # mlx-lm's own layers
        found.path, found.why = "no such model", f"mlx-lm cannot quantize it: {error}"
        return found
    tokenizer_files(folder)
    with _guarded(found, "model"):
        _compare(found, folder)
    refusal = found.cases.get("model", Case()).note
    if refusal.startswith("refused"):
        found.path = NO_CPU if LACKING in refusal else "refused"
        found.why = refusal.removeprefix("refused: ")
        del found.cases["model"]
    elif found.cases.get("gradient", Case()).note.startswith("refused"):
        found.path += ", not trained"
    found.why = found.why.replace(f"{folder}: ", "")
    for case in found.cases.values():
        case.note = case.note.replace(f"{folder}: ", "")
    return found
