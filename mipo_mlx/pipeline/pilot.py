"""A look ahead: what ``mipo generate`` would cost, and what a few pairs would be like.

Nothing is written. Pairs of a trial are those of randomly drawn users, so that contexts are shared
as in the run itself; hard negatives are drawn at random here.
"""

from __future__ import annotations

import random
import time
from typing import Any

import mlx.core as mx
from mlx.utils import tree_reduce

from mipo_mlx.config import RunConfig
from mipo_mlx.data.negatives import Contrast
from mipo_mlx.generation.contrasts import Prepared, describe, prepare
from mipo_mlx.generation.pairs import asks, encode, generate
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.prefix_tree import distinct_prefix_tokens
from mipo_mlx.inference.sampling import prefill_of
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.memory import limit_bytes
from mipo_mlx.types import Progress

PROBE = 24  # pairs that ``dry_run`` makes to learn the pace


def _draw(contrasts: list[Contrast], count: int, seed: int) -> list[Contrast]:
    """About ``count`` pairs: all of some users, in the order of the run."""
    names = sorted({item.context_id or item.prompt_id for item in contrasts})
    random.Random(f"{seed}:trial").shuffle(names)
    rank = {name: place for place, name in enumerate(names)}
    chosen = sorted(contrasts, key=lambda item: rank[item.context_id or item.prompt_id])[:count]
    kept = {item.id for item in chosen}
    return [item for item in contrasts if item.id in kept]


def _some_pairs(
    work: Prepared, config: RunConfig, count: int, on_progress: Progress
) -> tuple[dict[str, Any], float, int]:
    """Summary of so many pairs, seconds, and answers sampled."""
    contrasts = _draw(work.contrasts, count, config.data.seed)
    start = time.perf_counter()
    made = generate(
        work.lm,
        work.everybody,
        work.inputs.train_prompts,
        contrasts,
        config.generate,
        seed=config.data.seed,
        on_progress=on_progress,
    )
    seconds = time.perf_counter() - start
    summary = describe(made, work)
    summary["tokens_per_second"] = round(made.tokens / max(seconds, 1e-9), 1)
    return summary, seconds, made.responses


@uncompiled_on_cpu()
def pilot(config: RunConfig, count: int, on_progress: Progress) -> dict[str, Any]:
    """The summary of ``count`` pairs: drops, lengths, PMI and headroom.

    Raises:
        MipoError: as ``pipeline.generate.generate`` does.
    """
    work = prepare(config)
    summary, seconds, _ = _some_pairs(work, config, count, on_progress)
    return {**summary, "seconds": round(seconds, 2)}


def _bytes_of_row(lm: LanguageModel, tokens: int) -> int:
    """Keys and values of so many tokens, and states, or what the model keeps instead."""
    prompt = tuple(range(17))
    return int(prefill_of(lm, [prompt], [""], Tally()).bytes_of_row(0, tokens))


@uncompiled_on_cpu()
def dry_run(config: RunConfig, on_progress: Progress) -> dict[str, Any]:
    """What the whole would cost: answers, tokens, bytes, and minutes after a short probe.

    ``keys_and_values_bytes`` are those of the longest prompt with its answer.

    Raises:
        MipoError: as ``pipeline.generate.generate`` does.
    """
    work = prepare(config)
    wanted = {
        ask.key: ask for ask in asks(work.everybody, work.inputs.train_prompts, work.contrasts)
    }
    prompts = [encode(work.lm, ask.context, ask.prompt, config.generate) for ask in wanted.values()]
    weights = tree_reduce(lambda size, leaf: size + leaf.nbytes, work.lm.model.parameters(), 0)
    mx.reset_peak_memory()
    longest = max(map(len, prompts)) + config.generate.max_tokens
    probe, seconds, answers = _some_pairs(work, config, PROBE, on_progress)
    return {
        "pairs": len(work.contrasts),
        "responses": len(wanted),
        "prompt_tokens": {
            "ideal": distinct_prefix_tokens(prompts),
            "unshared": sum(map(len, prompts)),
        },
        "response_tokens_at_most": len(wanted) * config.generate.max_tokens,
        "weights_bytes": weights,
        "keys_and_values_bytes": _bytes_of_row(work.lm, longest),
        "limit_bytes": limit_bytes(config.generate.memory_limit),
        "peak_memory_bytes": mx.get_peak_memory(),
        "minutes": round(seconds * len(wanted) / max(1, answers) / 60, 2),
        "probe": probe,
    }
