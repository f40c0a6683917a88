"""``mipo generate``: contexts and prompts -> ``pairs.jsonl``, unless nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mipo_mlx.config import RunConfig, text_settings, to_toml
from mipo_mlx.data.pairs import pair_row
from mipo_mlx.generation.contrasts import describe, final_grid, prepare
from mipo_mlx.generation.pairs import generate as make_pairs
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.memory import allocator_within, measured
from mipo_mlx.run_dir.journal import AnswerFile
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore
from mipo_mlx.types import Progress, silent


@writing("generate")
@uncompiled_on_cpu()
def generate(run: Path, config: RunConfig, on_progress: Progress = silent) -> dict[str, Any]:
    """Make ``pairs.jsonl``. Nothing is written before all inputs have been read and checked."""
    work = prepare(config)
    key = {
        "model": work.lm.fingerprint,
        "data": work.inputs.digest,
        "objective": config.data.objective,
        "seed": config.data.seed,
        **text_settings(config),
    }
    store = RunStore(run)
    if store.is_fresh("generate", key):
        return {"unchanged": True, **store.stats("generate")}
    stats: dict[str, Any] = {}
    answers = AnswerFile(store, key, to_toml(config))
    with allocator_within(config.generate.memory_limit), measured(stats):
        made = make_pairs(
            work.lm,
            final_grid(work, config, on_progress, answers),
            work.rules,
            config.generate,
            on_progress=on_progress,
            journal=answers,
        )
    stats.update(describe(made, work), contexts_cut=work.cut)
    stats["tokens_per_second"] = round(made.tokens / max(stats["seconds"], 1e-9), 1)
    store.write_jsonl("pairs.jsonl", [pair_row(pair) for pair in made.pairs])
    store.record("generate", key, ["pairs.jsonl"], stats)
    answers.journal.remove()
    return stats
