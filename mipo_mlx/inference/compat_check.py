"""Whether a model gives the numbers of its plain ``__call__`` when it is run our way.

Prompts forwarded once for all that follows them, and a head run apart from its blocks, rest on what
a model's code is like: keys and values as the only state, positions from the cache, a backbone of a
known name. So before a model is used, a few dozen tokens are scored and sampled by the ways that
commands will take, and compared with the model's plain ``__call__``. What differs is given up for
this model, and said.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mipo_mlx.errors import ModelError
from mipo_mlx.inference import lm_head, path_cache, ways
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.ways import Logprobs
from mipo_mlx.inference.yardstick import Yardstick, described
from mipo_mlx.models.load import LanguageModel, Paths, load_model

log = logging.getLogger("mipo_mlx")

TEXT = (
    "The bakery at the corner opens at six. Before work I buy my bread there, and on Sundays a "
    "cake with plums for my sister, who comes by train and never stays for long."
)
AT_ONCE = 16_384  # prompt tokens side by side
SCORING = ((True, True), (True, False), (False, True), (False, False))  # shares, splits
SAMPLING = ("shared", "own", "whole")
PASSING = (MemoryError, OSError, RuntimeError)  # faults of the moment, which are not remembered
WORDS = {
    "shares": "every answer is forwarded with its whole prompt",
    "splits": "logits of all positions are held at once",
    "sampling": "answers are sampled one at a time",
    "checkpoints": "activations are never dropped",
    "pieces": "prompts are not taken in pieces",
    "compiles": "nothing is compiled",
}


def some_rows(ids: Sequence[int]) -> list[Row]:
    """Two prompts with a stem in common and three answers, all of unlike lengths.

    Taken plainly they are 51 tokens, with what is shared forwarded once 30.
    """
    ids = [ids[index % len(ids)] for index in range(32)]
    stem, rest = tuple(ids[:10]), tuple(ids[10:14])
    return [
        Row((*stem, *rest), (tuple(ids[14:20]), tuple(ids[20:24])), "it"),
        Row((*stem, ids[24]), (tuple(ids[25:30]),), "it"),
    ]


class _Trials:
    """Ways of running one model, tried in turn."""

    def __init__(self, lm: LanguageModel, rows: Sequence[Row]) -> None:
        self.lm, self.rows = lm, rows
        plain = functools.partial(ways.plain, lm.model, rows)
        self.yardstick = Yardstick(lm.name, lm.model, plain, "log-probs")
        self.passing = False  # whether a fault was one of the moment

    def fault(self, paths: Paths, way: Callable[[LanguageModel], Logprobs]) -> str:
        """Why a way may not be taken, "" if it may."""
        trial = replace(self.lm, paths=paths)
        try:
            wrong = paths.splits and _no_parts(self.lm.model)
            return wrong or self.yardstick.fault(lambda: way(trial))
        except ModelError as error:
            return error.message.rstrip(".")
        except Exception as error:  # a model of another make: its code may raise anything
            self.passing |= isinstance(error, PASSING) and not isinstance(
                error, NotImplementedError
            )
            return f"its code fails so: {described(error)}"

    def scoring(self) -> tuple[Paths, dict[str, str]]:
        """How given answers are scored, and why not otherwise."""
        faults: dict[tuple[bool, bool], str] = {}
        for shares, splits in SCORING:
            paths = Paths(shares=shares, splits=splits)
            faults[shares, splits] = self.fault(
                paths, lambda trial: ways.scored(trial, self.rows, AT_ONCE)
            )
            if not faults[shares, splits]:
                reasons = {}
                if not shares:
                    reasons["shares"] = faults[True, False]
                if not splits:
                    reasons["splits"] = faults[shares, True]
                return paths, reasons
        raise self._refused(
            "answers side by side",
            faults[False, False],
            "with and without shared prompts, with the head apart and not",
        )

    def sampling(self, paths: Paths) -> tuple[Paths, str]:
        """How answers are sampled, and why not otherwise."""
        why = ""
        for sampling in SAMPLING if paths.shares else SAMPLING[1:]:
            tried = replace(paths, sampling=sampling)
            wrong = self.fault(tried, lambda trial: ways.stepwise(trial, self.rows))
            if not wrong:
                return tried, why
            why = why or wrong
        raise self._refused(
            "answers a token at a time",
            why,
            "with shared prompts, with mlx-lm's own caches, and with no caches",
        )

    def _refused(self, what: str, why: str, tried: str) -> ModelError:
        if not self.yardstick.steady():
            why = "its plain forward pass gives other numbers each time"
        return ModelError(
            f"{self.lm.name}: {what} do not get the log-probs of its plain forward pass: {why}.",
            f"tried {tried}; this model cannot be used here",
        )


def _no_parts(model: Any) -> str:
    """Why a model's head cannot be told apart from its blocks, "" if it can."""
    parts = lm_head.parts(model)
    if parts is None:
        return "no backbone and head are found in its code"
    hidden = parts.hidden(mx.array([[0]]), None)
    if hidden.shape[-1] == parts.logits(hidden).shape[-1]:
        return "its backbone has the head within"
    return ""


def find_paths(lm: LanguageModel, rows: Sequence[Row]) -> tuple[Paths, bool]:
    """Ways of scoring and sampling that give the plain way's numbers, the quickest that do.

    Returns:
        The paths, with reasons for what is given up, and whether they hold another time.

    Raises:
        ModelError: none does, or the plain way itself gives no numbers.
    """
    was_training = lm.model.training
    lm.model.eval()
    try:
        trials = _Trials(lm, rows)
        paths, reasons = trials.scoring()
        paths, why = trials.sampling(paths)
        if paths.sampling != "shared":
            reasons["sampling"] = why or reasons["shares"]
        return replace(paths, reasons=tuple(reasons.items())), not trials.passing
    finally:
        lm.model.train(was_training)


def told(lm: LanguageModel) -> str:
    """What was given up for a model and why, in one line; "" for nothing."""
    causes: dict[str, list[str]] = {}
    for name, why in lm.paths.reasons:
        causes.setdefault(why, []).append(WORDS[name])
    parts = [f"{' and '.join(words)} ({why})" for why, words in causes.items()]
    return f"{lm.name}: {'; '.join(parts)}" if parts else ""


@functools.cache
def tell(line: str) -> None:
    """Warn, once in a process."""
    log.warning("%s", line)


def from_record(record: dict[str, Any]) -> Paths:
    """Paths as ``path_cache`` gives them back.

    Raises:
        TypeError, ValueError: it is no such record.
    """
    reasons = tuple((str(name), str(why)) for name, why in record.pop("reasons"))
    return Paths(**record, reasons=reasons)


def check(lm: LanguageModel) -> None:
    """Set ``lm.paths`` to what holds for this model, by trial or as found before; warn of limits.

    Raises:
        ModelError: the model cannot be run at all.
    """
    about = {"model": lm.fingerprint, "check": "inference"}
    known = path_cache.recall(about) if lm.fingerprint else None
    try:
        lm.paths = from_record(known or {})
    except (KeyError, TypeError, ValueError):
        ids = [int(token) for token in lm.tokenizer.encode(TEXT)] or [0]
        lm.paths, lasting = find_paths(lm, some_rows(ids))
        if lm.fingerprint and lasting:
            path_cache.remember(about, asdict(lm.paths))
    line = told(lm)
    if line:
        tell(line)


def open_model(
    name: str, *, adapter_path: Path | None = None, offline: bool = False
) -> LanguageModel:
    """``load_model``, with the ways of running it checked.

    Raises:
        ModelError: it cannot be found or opened, or cannot be run.
    """
    lm = load_model(name, adapter_path=adapter_path, offline=offline)
    check(lm)
    return lm
