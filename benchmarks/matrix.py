"""Every answer under every context: with shared prefixes, against one at a time and plain batches.

``python benchmarks/matrix.py --contexts 64 --repeats 3``

The embedded model, users of its synthetic world who are all asked the same, an answer sampled for
each. The three ways run in turn in one process; what is told is the ratio of medians, and the
largest difference of any log-prob from one at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mipo_mlx.config import resolve
from mipo_mlx.generation.answers import Ask, encode, sample
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel, load_model
from mipo_mlx.run_dir.environment import here
from mipo_mlx.tiny.world import make_users, write_context
from mipo_mlx.types import Context, Prompt

Ids = tuple[int, ...]


def data(lm: LanguageModel, count: int) -> tuple[list[Ids], list[Ids]]:
    """Token ids of ``count`` conditions and as many answers."""
    config = resolve(flags={"max_tokens": 32}).generate
    people = make_users(count, 7, held_out=True)
    users = [Context(f"u{n}", write_context(user, n)) for n, user in enumerate(people)]
    prompt = Prompt("p", "What should I make for dinner?")
    asks = [Ask(user, prompt) for user in users]
    answers = sample(lm, asks, config, 0, lambda *_: None)
    prompts = [encode(lm, user, prompt, config) for user in users]
    return prompts, [answers[ask.key].token_ids for ask in asks]


def shared(lm: LanguageModel, prompts: list[Ids], answers: list[Ids]) -> np.ndarray:
    """What ``mipo eval`` does."""
    return np.array(list(score(lm, [Row(ids, tuple(answers)) for ids in prompts])))


def plain(lm: LanguageModel, pairs: list[tuple[Ids, Ids]]) -> list[float]:
    """Whole rows, right-padded, through the model's own ``__call__``."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    rows = np.zeros((len(pairs), width), np.int32)
    mask = np.zeros((len(pairs), width - 1), np.float32)
    for row, (prompt, answer) in enumerate(pairs):
        rows[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        mask[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = 1
    tokens = mx.array(rows)
    losses = nn.losses.cross_entropy(lm.model(tokens[:, :-1]), tokens[:, 1:])
    found: list[float] = (-(losses * mx.array(mask)).sum(axis=1)).tolist()
    return found


def batched(lm: LanguageModel, prompts: list[Ids], answers: list[Ids], size: int) -> np.ndarray:
    """Plain rows of ``size`` pairs."""
    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    found: list[float] = []
    for start in range(0, len(pairs), size):
        found += plain(lm, pairs[start : start + size])
    return np.array(found).reshape(len(prompts), len(answers))


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--contexts", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lm = load_model("embedded")
    prompts, answers = data(lm, args.contexts)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "shared prefixes": lambda: shared(lm, prompts, answers),
        "one at a time": lambda: batched(lm, prompts, answers, 1),
        "plain rows, 32 at once": lambda: batched(lm, prompts, answers, 32),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, np.ndarray] = {}
    for turn in range(args.repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    lengths = statistics.mean(map(len, prompts)), statistics.mean(map(len, answers))
    print(f"{args.contexts} contexts x {args.contexts} answers, {lengths[0]:.0f} and "
          f"{lengths[1]:.1f} tokens on average; medians of {args.repeats}")  # fmt: skip
    print("| way | seconds | times slower | largest difference, nats |\n|---|---|---|---|")
    for name, median in medians.items():
        apart = float(np.abs(found[name] - found["one at a time"]).max())
        ratio = median / medians["shared prefixes"]
        print(f"| {name} | {median:.2f} | {ratio:.1f} | {apart:.1e} |")
    if args.json:
        told = {"seconds": seconds, "lengths": lengths, "n": args.repeats, "machine": here()}
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
