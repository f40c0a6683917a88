"""How far training, scoring and sampling are from a model's own forward pass, a row at a time.

``examine`` makes a small random model of ``zoo.toml`` a folder, opens it as the product does, and
compares. In fp32 the model's own ``__call__``, one sequence on empty caches and without padding, is
the truth. In half precision and in 4 bits the truth is the same with all that is not packed cast to
fp32, and what counts is how much further from it we are than the plain pass in that precision is.
"""

from __future__ import annotations

import contextlib
import io
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import MipoError
from mipo_mlx.inference import compat_check
from mipo_mlx.inference.prefix_tree import Row, alone, plant, stems_of
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.inference.scoring import score_tokens
from mipo_mlx.models.load import LanguageModel, load_model
from mipo_mlx.models.lora import attach
from mipo_mlx.training import compat_check as training_check
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.gradients import forward_trunk, loss_gradient, trunk_gradient
from mipo_mlx.training.memory_plan import Plan

from . import zoo
from .archs import randomize_lora, tokenizer_files

PRECISIONS = ("fp32", "bf16", "4 bits")
CASES = ("loss", "gradient", "checkpointed", "in pieces", "scoring", "sampling")
EXACT = 2e-5  # relative distance that passes in fp32
TIE = 1e-3  # nats, fp32: tokens as likely as the likeliest
FURTHER = 1.2  # times the plain pass's distance from fp32
COLUMNS = 5  # of prompts, forwarded at once
BUDGET = 8 * zoo.COMMON["vocab_size"] * 7  # bytes: logits of seven tokens
MOST = 7  # new tokens
ROWS = 7  # prompts
LACKING = "only supports float32"  # what MLX says on a CPU of mixtures of experts in half precision

Flat = dict[str, mx.array]


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
        why: as the product tells it.
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


def check(lm: LanguageModel, rows: Sequence[Row]) -> None:
    """Set how the model will be run, as commands do when they open it."""
    row = max(rows, key=lambda row: len(row.prompt_ids))
    lm.paths, _ = compat_check.find_paths(lm, compat_check.some_rows(row.prompt_ids))


def check_plan(lm: LanguageModel, rows: Sequence[Row], plan: Plan) -> None:
    """Set how the model will be trained by a plan, as ``mipo train`` does."""
    row = max(rows, key=lambda row: len(row.prompt_ids))
    pair = TrainingRow(EncodedPair("it", row.prompt_ids, row.responses[:2], "it"), (0.0, 0.0))
    lm.paths, _ = training_check.find_paths(lm, [pair], TrainConfig(), plan)


def path_of(lm: LanguageModel) -> tuple[str, str]:
    """How the model is run, and why."""
    path = "shared" if lm.shares else "unshared"
    return path + ("" if lm.splits else ", head whole"), compat_check.told(lm)


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


# ---- the plain pass -----------------------------------------------------------------------------


def told_loss(rows: Sequence[Row]) -> Callable[[mx.array], tuple[mx.array, Flat]]:
    """The loss over K negatives, the first response of a row against the others."""
    count = len(rows[0].responses)

    def loss(logps: mx.array) -> tuple[mx.array, Flat]:
        rewards = 0.1 * logps.reshape(-1, count)
        losses = mx.logsumexp(rewards, axis=1) - rewards[:, 0]
        return losses.sum(), {"losses": losses, "logps": logps}

    return loss


def plain_tokens(model: Any, row: Row, response: Sequence[int]) -> mx.array:
    """Log-probs of response tokens: one sequence, no padding, caches empty.

    Without caches Gemma 3n's last layers take keys and values that were never trained.
    """
    tokens = mx.array([[*row.prompt_ids, *response]])
    logits = model(tokens[:, :-1], cache=make_prompt_cache(model))[
        0, len(row.prompt_ids) - 1 :
    ].astype(mx.float32)
    picked = mx.take_along_axis(logits, mx.array(response)[:, None], axis=-1)[:, 0]
    return picked - mx.logsumexp(logits, axis=-1)


def plain_step(model: Any, rows: Sequence[Row]) -> tuple[mx.array, Flat]:
    """As ``step``."""

    def loss(model: Any) -> tuple[mx.array, Flat]:
        each = [plain_tokens(model, row, ids).sum() for row in rows for ids in row.responses]
        return told_loss(rows)(mx.stack(each))

    model.train()
    (_, told), grads = nn.value_and_grad(model, loss)(model)
    model.eval()
    return told["losses"], dict(tree_flatten(grads))


def plain_scores(model: Any, rows: Sequence[Row]) -> np.ndarray:
    """As ``scores``."""
    each = [plain_tokens(model, row, ids) for row in rows for ids in row.responses]
    return np.array(mx.concatenate(each))


def plain_logits(model: Any, rows: Sequence[Row], drawn: Sequence[Sequence[int]]) -> mx.array:
    """Logits [n, v] from which each token of given answers would be drawn."""
    each = []
    for row, ids in zip(rows, drawn, strict=True):
        tokens = mx.array([[*row.prompt_ids, *ids[:-1]]])
        logits = model(tokens, cache=make_prompt_cache(model))
        each.append(logits[0, len(row.prompt_ids) - 1 :].astype(mx.float32))
    return mx.concatenate(each)


# ---- data and models ----------------------------------------------------------------------------


def ragged(repeats: int, count: int, seed: int = 3) -> list[Row]:
    """Up to seven prompts of 1 to 39 tokens with ``repeats`` responses of 1 to 9."""
    rng = np.random.default_rng(seed)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, zoo.COMMON["vocab_size"], size))

    long, short = ids(29), ids(4)
    prompts = [
        ("long", long + ids(5)),
        ("", ids(11)),
        ("long", long + ids(2)),
        ("short", (*short, 7)),
        ("", ids(1)),
        ("short", (*short, 9)),
        ("long", long + ids(10)),
    ][:count]
    sizes = rng.integers(1, 10, (count, repeats))
    return [
        Row(prompt, tuple(ids(int(size)) for size in row), group)
        for (group, prompt), row in zip(prompts, sizes, strict=True)
    ]


def _cast(model: Any, dtype: mx.Dtype) -> None:
    """As mlx-lm converts: all floating numbers but what the model wants in fp32."""
    may = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, array: mx.array) -> mx.array:
        floating = mx.issubdtype(array.dtype, mx.floating)
        return array.astype(dtype) if floating and (dtype == mx.float32 or may(path)) else array

    model.update(tree_map_with_path(cast, model.parameters()))


def write(folder: Path, name: str, precision: str) -> None:
    """A folder as ``mlx_lm.convert`` leaves it."""
    from mlx_lm.utils import quantize_model

    model, config = zoo.build(name), zoo.arguments(name)
    if precision != "fp32":
        _cast(model, mx.bfloat16)
    if precision == "4 bits":
        with contextlib.redirect_stdout(io.StringIO()):
            model, config = quantize_model(model, config, 32, 4)
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 2}))
    tokenizer_files(folder)


def opened(folder: Path, exact: bool) -> LanguageModel:
    """With an adapter that matters; ``exact`` computes in fp32 whatever the weights are."""
    lm = load_model(str(folder))
    if exact:
        _cast(lm.model, mx.float32)
    attach(lm, rank=4, scale=2.0, num_layers=-1, seed=0)
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
    batches = [ragged(2, ROWS), ragged(4, 3)]  # K = 1 and 3
    truth = [plain_step(exact.model, rows) for rows in batches]
    plain = truth if lm is exact else [plain_step(lm.model, rows) for rows in batches]
    ways: dict[str, Callable[[Sequence[Row], int], tuple[mx.array, Flat]]] = {
        "gradient": lambda rows, _: step(lm, rows, False),
    }
    if lm.paths.checkpoints:
        ways["checkpointed"] = lambda rows, _: step(lm, rows, True)
    if lm.shares and lm.paths.pieces:
        recompute = lm.paths.checkpoints
        ways["in pieces"] = lambda rows, index: step_in_pieces(lm, rows, recompute and bool(index))
    for name, way in ways.items():
        with _guarded(found, name):
            lm.model.train()
            ours = [way(rows, index) for index, rows in enumerate(batches)]
            if name == "gradient":
                losses = ([each[0] for each in steps] for steps in (ours, plain, truth))
                found.cases["loss"] = _pooled(*losses)
            grads = ([each[1] for each in steps] for steps in (ours, plain, truth))
            found.cases[name] = _pooled(*grads)
        lm.model.eval()


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


def examine(name: str, precision: str, folder: Path) -> Found:
    """All cases of one architecture; whatever goes wrong is told, not raised."""
    found = Found(name, precision)
    folder = folder / name
    rows = ragged(2, ROWS)
    with _guarded(found, "model"):
        try:
            write(folder, name, precision)
        except TypeError as error:  # mlx-lm's own layers
            found.path, found.why = "no such model", f"mlx-lm cannot quantize it: {error}"
            return found
        exact = opened(folder, exact=True)
        lm = exact if precision == "fp32" else opened(folder, exact=False)
        truth = plain_scores(exact.model, rows)
        try:
            plain = truth if lm is exact else plain_scores(lm.model, rows)
        except RuntimeError as error:
            if LACKING not in str(error):
                raise
            found.path, found.why = "not on a CPU", str(error)
            return found
        with _guarded(found, "path"):
            check(lm, rows)
            found.path, found.why = path_of(lm)
        with _guarded(found, "scoring"):
            ours = scores(lm, rows)
            found.cases["scoring"] = _pooled([ours], [plain], [truth])
        with _guarded(found, "sampling"):
            _compare_sampling(found, lm, exact)
        with _guarded(found, "path"):
            check_plan(lm, rows, Plan(2, True, BUDGET, piece=int(lm.shares)))
            found.path, found.why = path_of(lm)
        if "path" not in found.cases:
            with _guarded(found, "gradient"):
                _compare_steps(found, lm, exact)
    for name in ("model", "path"):
        if name in found.cases and found.cases[name].note.startswith("refused"):
            found.path, found.why = "refused", found.cases.pop(name).note
    found.why = found.why.replace(str(folder), "").removeprefix("refused: ").lstrip(": ")
    return found
