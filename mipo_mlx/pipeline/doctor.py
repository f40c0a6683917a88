"""What ``mipo doctor`` tells: this machine, and whether a model and contexts fit it.

A model's weights are neither loaded nor downloaded: its configuration, its tokenizer and the size
of its weights are enough.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mipo_mlx._blas import load_openblas, remedy
from mipo_mlx.bench.rate import matmul_rate
from mipo_mlx.config import RunConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import ModelError
from mipo_mlx.generation.answers import encode
from mipo_mlx.generation.contrasts import contrasts_of
from mipo_mlx.generation.inputs import read_inputs
from mipo_mlx.models import lora
from mipo_mlx.models.architecture import other_states
from mipo_mlx.models.load import Download, LanguageModel, Paths, Skeleton, load_skeleton
from mipo_mlx.models.memory import allocator_limits, device_bytes, limit_bytes
from mipo_mlx.run_dir.environment import here
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.memory_model import Dimensions
from mipo_mlx.training.memory_plan import Plan, choose, cut, steps_of
from mipo_mlx.training.objectives import objective_of
from mipo_mlx.types import Prompt

SHARE = 0.2  # of the rate of one large matrix product that a step got on a CPU; elsewhere a guess
WATCHDOG = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"  # set to 1, macOS lets the GPU work on for longer
ADVICE = "cut contexts (--max-prompt-tokens), take a smaller or quantized model, or more memory"


def _cached() -> dict[str, int]:
    """Models in the hub's cache, with their bytes."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    return {repo.repo_id: repo.size_on_disk for repo in repos if repo.repo_type == "model"}


def machine() -> dict[str, Any]:
    """Platform, memory, versions and cached models."""
    metal = mx.metal.is_available()
    own = f"MLX's own; OpenBLAS is faster: {command}" if (command := remedy()) else "MLX's own"
    return {
        **here(),
        "metal": metal,
        **({"watchdog_relaxed": os.environ.get(WATCHDOG) == "1"} if metal else {}),
        "recommended_bytes": device_bytes(),
        "blas": "OpenBLAS" if load_openblas() else own,
        "cached_models": _cached(),
    }


def _allocator(gib: float) -> dict[str, int] | str:
    """Limits that will be set while sampling, training and evaluating."""
    limits = allocator_limits(gib)
    if limits is None:
        return "left alone on a CPU"
    return {f"{name}_bytes": size for name, size in asdict(limits).items() if size is not None}


def _rows(skeleton: Skeleton, config: RunConfig) -> list[TrainingRow]:
    """The run's pairs with answers of the greatest length."""
    inputs = read_inputs(config.data)
    lm = LanguageModel(None, skeleton.tokenizer, None, "", "", skeleton.max_tokens)  # type: ignore[arg-type]
    users = {user.id: user for user in [*inputs.train_contexts, *inputs.foils]}
    prompts: dict[str, Prompt] = {prompt.id: prompt for prompt in inputs.train_prompts}
    length = config.generate.max_tokens
    known: dict[tuple[str, str], tuple[int, ...]] = {}
    rows = []
    for item in contrasts_of(inputs, config):
        place = (item.context_id, item.prompt_id)
        if place not in known:
            user = users.get(item.context_id)
            known[place] = encode(lm, user, prompts[item.prompt_id], config.generate)
        sides = ((1,) * length, (2,) * length)
        encoded = EncodedPair(item.id, known[place], sides, item.context_id, item.block)
        rows.append(TrainingRow(encoded, (0.0, 0.0)))
    return rows


def _seconds(
    skeleton: Skeleton, rows: list[TrainingRow], config: RunConfig, plan: Plan, shares: bool
) -> float:
    """Of training, at ``SHARE`` of the measured rate of matrix products."""
    train = config.train
    step, crossed = (
        train.batch_size * train.gradient_accumulation_steps,
        objective_of(train).crossed,
    )
    tokens = sum(
        cut([rows[i : i + step]], plan, crossed, shares)[1] for i in range(0, len(rows), step)
    )
    of = Dimensions.of(skeleton.config)
    arrays = dict(tree_flatten(skeleton.model.parameters()))
    bits = (skeleton.config.get("quantization") or {}).get("bits", 32)
    weights = sum(a.size * (1 if a.dtype == mx.float32 else 32 // bits) for a in arrays.values())
    blocks = max(weights - 2 * of.vocabulary * of.hidden, weights // 2)
    answers = sum(len(ids) for row in rows for ids in row.encoded.responses)
    passes = 6 if plan.recompute else 4  # forward and backward to activations, 2 FLOP each
    work = train.epochs * (passes * blocks * tokens + 4 * of.vocabulary * of.hidden * answers)
    rate = matmul_rate(mx.float32 if of.itemsize == 4 else mx.bfloat16)
    return float(work / (SHARE * rate))


def _planned(
    skeleton: Skeleton, config: RunConfig, rows: list[TrainingRow], of: Dimensions
) -> Plan:
    """How ``mipo train`` would cut a step, with its predicted peak."""
    shares = not other_states(skeleton.model)
    lm = LanguageModel(skeleton.model, None, None, "", "", None)  # type: ignore[arg-type]
    train = config.train
    modules = [name.strip() for name in train.lora_modules.split(",") if name.strip()]
    lora.attach(
        lm, rank=train.lora_rank, scale=1.0, num_layers=train.lora_layers, seed=0, modules=modules
    )
    trained = sum(
        array.nbytes for array in dict(tree_flatten(lm.model.trainable_parameters())).values()
    )
    return choose(
        steps_of(rows, train.batch_size, config.data.seed),
        train,
        of,
        fixed=skeleton.weights + 5 * trained,
        limit=limit_bytes(config.generate.memory_limit),
        paths=Paths(shares=shares),
    )


def fits(config: RunConfig, *, download: Download | None = None) -> dict[str, Any]:
    """Whether a run's model can be trained on a run's contexts here, and how.

    Args:
        config: its model, data, batch and limits.
        download: in place of ``huggingface_hub.snapshot_download``.

    Raises:
        DataError: contexts or prompts cannot be used.
        ModelError: the model cannot be found, or its kind is unknown.
    """
    skeleton = load_skeleton(config.data.model, offline=config.data.offline, download=download)
    told: dict[str, Any] = {
        "model": config.data.model,
        "weights_bytes": skeleton.weights,
        "weights_here": skeleton.here,
        "window": skeleton.max_tokens,
    }
    try:
        of = Dimensions.of(skeleton.config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{config.data.model}: its configuration lacks {error}, so nothing can be predicted.",
            "mipo train says what it took",
        ) from error
    rows = _rows(skeleton, config)
    shares = not other_states(skeleton.model)
    plan = _planned(skeleton, config, rows, of)
    lengths = [len(row.encoded.prompt_ids) for row in rows]
    told |= {
        "pairs": len(rows),
        "longest_prompt_tokens": max(lengths),
        "answer_tokens_at_most": config.generate.max_tokens,
        "prefixes_shared": shares,
        "optimizer_steps": config.train.epochs * math.ceil(len(rows) / config.train.batch_size),
        "micro_batch_size": plan.micro_batch,
        "prompt_piece": plan.piece,
        "gradient_checkpointing": plan.recompute,
        "predicted_peak_bytes": plan.peak,
        "limit_bytes": plan.limit,
        "allocator": _allocator(config.generate.memory_limit),
        "fits": plan.fits,
        "minutes": round(_seconds(skeleton, rows, config, plan, shares) / 60, 2),
    }
    return told if plan.fits else {**told, "advice": ADVICE}
