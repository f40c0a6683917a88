"""A look ahead: what ``mipo generate`` would cost, and what a few pairs would be like.

Nothing is written. Pairs of a trial are whole blocks, so that contexts are shared as in the run
itself; hard negatives are drawn at random here.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_reduce

from mipo_mlx.config import RunConfig
from mipo_mlx.data.blocks import draw
from mipo_mlx.data.grid import Cell, Grid
from mipo_mlx.generation.answers import asks, encode
from mipo_mlx.generation.contrasts import Prepared, describe, prepare
from mipo_mlx.generation.pairs import generate
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.prefix_tree import distinct_prefix_tokens
from mipo_mlx.inference.sampling import prefill_of
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.memory import limit_bytes
from mipo_mlx.types import Progress

PROBE = 24  # pairs that ``dry_run`` makes to learn the pace


def _part(work: Prepared, count: int) -> Grid:
    """The answers of at least ``count`` pairs, or all: those of the run's first blocks."""
    cells: dict[Cell, None] = {}
    last, pairs = "", 0
    for item in draw(work.grid, work.rules).contrasts:
        if pairs >= count and item.block != last:
            break
        last, pairs = item.block, pairs + 1
        cells[Cell(item.context_id, item.prompt_id, item.sample)] = None
        other = item.negative_prompt_id or item.prompt_id
        cells[Cell(item.negative_context_id, other, item.sample)] = None
    return replace(work.grid, cells=tuple(cells))


def _some_pairs(
    work: Prepared, config: RunConfig, count: int, on_progress: Progress
) -> tuple[dict[str, Any], float, int]:
    """Summary of so many pairs, seconds, and answers sampled."""
    start = time.perf_counter()
    grid = _part(work, count)
    made = generate(work.lm, grid, work.rules, config.generate, on_progress=on_progress)
    seconds = time.perf_counter() - start
    summary = describe(made, work)
    summary["tokens_per_second"] = round(made.tokens / max(seconds, 1e-9), 1)
    return summary, seconds, made.responses


@uncompiled_on_cpu()
def pilot(config: RunConfig, count: int, on_progress: Progress) -> dict[str, Any]:
    """The summary of ``count`` pairs or a few more, in whole blocks: drops, lengths and headroom.

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
    wanted = asks(work.grid)
    prompts = [encode(work.lm, ask.context, ask.prompt, config.generate) for ask in wanted]
    weights = tree_reduce(lambda size, leaf: size + leaf.nbytes, work.lm.model.parameters(), 0)
    mx.reset_peak_memory()
    longest = max(map(len, prompts)) + config.generate.max_tokens
    probe, seconds, answers = _some_pairs(work, config, PROBE, on_progress)
    return {
        "pairs": len(draw(work.grid, work.rules).contrasts),
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
