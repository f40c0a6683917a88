"""From ``pairs.jsonl`` to ``adapter/``: what ``mipo train`` reads, keeps on the way and writes.

The state of a run is saved every so often and when it is stopped, in one file that is replaced
whole. The same command goes on from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mipo_mlx.config import RunConfig, TrainConfig, to_toml
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.data.split import held_pairs
from mipo_mlx.errors import ConfigError
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.inference.reference import with_ids, with_reference
from mipo_mlx.models import lora
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.memory import allocator_within, limit_bytes, measured
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, file_hash
from mipo_mlx.training import compat_check
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.defaults import with_rate
from mipo_mlx.training.distributed import Ranks
from mipo_mlx.training.memory_model import Dimensions
from mipo_mlx.training.memory_plan import Plan, choose, steps_of
from mipo_mlx.training.objectives import objective_of
from mipo_mlx.training.rows import training_rows
from mipo_mlx.training.step import plain_plan
from mipo_mlx.training.trackers import tracker
from mipo_mlx.training.trainer import STOPS, Trainer
from mipo_mlx.training.withhold import held_facts, withhold
from mipo_mlx.types import PreferencePair, Progress, silent

log = logging.getLogger("mipo_mlx")
STATE = "training.safetensors"
METRICS = "metrics.jsonl"
NO_MATTER = ("pairs", "save_every", "report_to")  # options without a say in the adapter's numbers


def _made_here(lm: LanguageModel, run: Path, config: RunConfig) -> bool:
    """Whether the pairs to train on were sampled from this very model, so that their ids hold.

    Raises:
        ConfigError: the run's pairs are another model's.
    """
    maker = RunStore(run).manifest()["steps"].get("generate", {}).get("inputs", {}).get("model")
    if config.train.pairs or maker is None:
        return False
    if maker != lm.fingerprint:
        raise ConfigError(
            f"{run / 'pairs.jsonl'}: these pairs were sampled from another model than {lm.name}.",
            f"run 'mipo generate {run} --model {lm.name}' again, or give the file to --pairs",
        )
    return True


def _without_reference(pair: PreferencePair) -> PreferencePair:
    return replace(pair, ref_chosen_logps=None, ref_rejected_logps=None)


def _text_only(pair: PreferencePair) -> PreferencePair:
    """Token ids and log-probs of unknown origin may be another model's: they are made anew."""
    chosen, rejected = (replace(side, token_ids=()) for side in (pair.chosen, pair.rejected))
    return _without_reference(replace(pair, chosen=chosen, rejected=rejected))


def _read(lm: LanguageModel, run: Path, config: RunConfig, path: Path) -> list[PreferencePair]:
    """Pairs whose ids and log-probs are those of the model, as far as they are known."""
    if not config.train.pairs and not path.is_file():
        raise ConfigError(
            f"{path}: no pairs to train on.", f"run 'mipo generate {run}' first, or give --pairs"
        )
    pairs = read_pairs(path)
    if not _made_here(lm, run, config):
        pairs = [_text_only(pair) for pair in pairs]
    if config.train.adapter_path:  # the adapter's own model is the reference then
        pairs = [_without_reference(pair) for pair in pairs]
    return pairs


def _parts(
    pairs: Sequence[PreferencePair], rows: Sequence[TrainingRow], config: TrainConfig, seed: int
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Rows to train on and rows to validate on."""
    if not config.validation:
        return list(rows), []
    sides: tuple[list[TrainingRow], list[TrainingRow]] = ([], [])
    for held, row in zip(held_pairs(pairs, config.validation, seed), rows, strict=True):
        sides[held].append(row)
    return sides


def attach(lm: LanguageModel, config: TrainConfig, seed: int) -> lora.Shape:
    if config.adapter_path:
        return lora.go_on(lm, Path(config.adapter_path))
    scale = config.lora_scale / config.lora_rank**0.5 if config.rslora else config.lora_scale
    return lora.attach(
        lm,
        rank=config.lora_rank,
        scale=scale,
        num_layers=config.lora_layers,
        seed=seed,
        modules=[name.strip() for name in config.lora_modules.split(",") if name.strip()],
        kind=config.fine_tune_type,
    )


def referred(
    lm: LanguageModel, pairs: list[PreferencePair], config: RunConfig, on_progress: Progress
) -> list[PreferencePair]:
    """Pairs with the reference's log-probs: of the base, or of the adapter that is gone on from."""
    missing = [pair for pair in pairs if pair.ref_chosen_logps is None]
    if not missing:
        return pairs
    thinking = config.generate.enable_thinking
    base = nullcontext() if config.train.adapter_path else lora.adapter_disabled(lm)
    with base:
        made = with_reference(lm, missing, enable_thinking=thinking, on_progress=on_progress)
    done = iter(made)
    return [next(done) if pair.ref_chosen_logps is None else pair for pair in pairs]


def _planned(
    lm: LanguageModel, rows: Sequence[TrainingRow], config: RunConfig, ranks: Ranks
) -> Plan:
    """How steps are cut, told before the first one."""
    train = config.train
    try:
        of = Dimensions.of(json.loads((lm.path / "config.json").read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError):
        plan = plain_plan(train, lm)
        log.info("%s; its peak cannot be predicted for this model", plan)
        return plan
    arranged = objective_of(train).arrange(rows)
    steps = steps_of(
        arranged, train.batch_size * train.gradient_accumulation_steps, config.data.seed
    )
    weights, trained = (
        sum(array.nbytes for array in dict(tree_flatten(tree)).values())
        for tree in (lm.model.parameters(), lm.model.trainable_parameters())
    )
    plan = choose(
        [ranks.mine(step) or step for step in steps],
        train,
        of,
        fixed=weights + 4 * trained,  # its gradient, the sum of gradients, two moments
        limit=limit_bytes(config.generate.memory_limit),
        paths=lm.paths,
    )
    if ranks.rank == 0:
        (log.info if plan.fits else log.warning)("%s", plan)
    return plan


def proven(
    lm: LanguageModel,
    rows: Sequence[TrainingRow],
    config: RunConfig,
    ranks: Ranks,
    shape: lora.Shape,
) -> Plan:
    """A plan whose gradient is that of the model's plain forward pass."""
    while True:
        plan = _planned(lm, rows, config, ranks)
        arranged = objective_of(config.train).arrange(rows)
        if compat_check.check(lm, arranged, config.train, plan, asdict(shape)):
            return plan


def _saved(store: RunStore, key: dict[str, Any], trainer: Trainer) -> list[dict[str, Any]]:
    """Go on from a state of the same training, if there is one; returns its metrics so far."""
    found = store.read_arrays(STATE)
    if found is None:
        return []
    arrays, about = found
    try:
        if about["inputs"] != json.loads(json.dumps(key)):
            return []
        trainer.restore(arrays, about["counters"])
        return [line for line in about["log"] if line["step"] <= trainer.counters.step]
    except (KeyError, TypeError, ValueError):
        return []


def _all_from_first(
    ranks: Ranks, trainer: Trainer, metrics: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Put every rank where the first one is."""
    if ranks.size == 1:
        return metrics
    counters = trainer.snapshot()[1]
    here = {"counters": counters, "metrics": metrics, "best": trainer.best is not None}
    told = json.loads(ranks.text_from_first(json.dumps(here)))
    if told["best"] and trainer.best is None:
        trainer.best = trainer.model.trainable_parameters()
    trainer.restore(ranks.from_first(trainer.snapshot()[0]), told["counters"])
    return list(told["metrics"])


def _run(
    store: RunStore,
    key: dict[str, Any],
    trainer: Trainer,
    config: TrainConfig,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """All steps, their metrics; the last whole step is saved when something stops them."""
    ranks = trainer.gradients.ranks
    metrics = _all_from_first(
        ranks, trainer, _saved(store, key, trainer) if ranks.rank == 0 else []
    )
    resumed = len(metrics)
    good = trainer.snapshot()

    def save() -> None:
        if ranks.rank == 0:
            arrays, counters = good
            about = {"inputs": key, "counters": counters, "log": metrics}
            store.write_arrays(STATE, arrays, about)

    if ranks.rank == 0:
        store.write_jsonl(METRICS, metrics)  # steps after the last save are taken again

    try:
        with tracker(config.report_to if ranks.rank == 0 else "", store.path) as tell:
            for step in trainer.run():
                metrics.append({"step": step.step, **step.values})
                if ranks.rank == 0:
                    store.append_jsonl(METRICS, metrics[-1])
                tell(step.step, step.values)
                good = trainer.snapshot()
                if step.step % config.save_every == 0 and step.step < step.total_steps:
                    save()
                on_progress(f"train, loss {step.values['loss']:.3f}", step.step, step.total_steps)
    except BaseException:
        if len(metrics) > resumed:
            save()
        raise
    return metrics


def _key(lm: LanguageModel, config: RunConfig, path: Path) -> dict[str, Any]:
    """All that has a say in the adapter's numbers."""
    settings = {name: v for name, v in asdict(config.train).items() if name not in NO_MATTER}
    if config.train.hold_facts:
        settings["hold_facts"] = file_hash(Path(config.train.hold_facts))
    if config.train.adapter_path:
        settings["adapter_path"] = file_hash(Path(config.train.adapter_path) / lora.WEIGHTS)
    return {
        "model": lm.fingerprint,
        "pairs": file_hash(path),
        "seed": config.data.seed,
        "enable_thinking": config.generate.enable_thinking,
        "context_template": config.generate.context_template,
        "answer_style": config.generate.answer_style,
        **settings,
    }


def _told(trainer: Trainer, metrics: list[dict[str, Any]], pairs: int) -> dict[str, Any]:
    """What a finished training tells of itself."""
    plan, ranks = trainer.gradients.plan, trainer.gradients.ranks
    peak = max((int(line["peak_memory_bytes"]) for line in metrics), default=0)
    stats: dict[str, Any] = {"peak_memory_bytes": peak}
    if plan.peak:
        stats["predicted_peak_bytes"] = plan.peak
    stats.update(pairs=pairs, optimizer_steps=len(metrics))
    if ranks.size > 1:
        stats.update(ranks=ranks.size, rank=ranks.rank)
    if trainer.validation:
        best = trainer.counters.best_step
        stats.update(validation_pairs=len(trainer.validation), best_step=best)
    if trainer.counters.stopped:
        stats["stopped"] = STOPS[trainer.counters.stopped]
        log.warning("stopped after %d steps: %s", len(metrics), stats["stopped"])
    if metrics:
        stats.update(first=metrics[0], last=metrics[-1])
    return stats


@writing("train")
@uncompiled_on_cpu()
def train(run: Path, config: RunConfig, on_progress: Progress = silent) -> dict[str, Any]:
    """Train ``adapter/`` on the run's pairs or on ``--pairs``; ``metrics.jsonl`` a line a step.

    Raises:
        MipoError: pairs, model or options cannot be used, or the loss stops being finite.
    """
    unwanted = held_facts(config.train)
    start = Path(config.train.adapter_path) if config.train.adapter_path else None
    lm = open_model(config.data.model, adapter_path=start, offline=config.data.offline)
    config = replace(config, train=with_rate(lm, config.train))
    path = Path(config.train.pairs) if config.train.pairs else run / "pairs.jsonl"
    pairs = _read(lm, run, config, path)
    key = _key(lm, config, path)
    store, ranks = RunStore(run), Ranks()
    fresh = ranks.rank == 0 and store.is_fresh("train", key)
    if ranks.text_from_first("fresh" if fresh else "to do") == "fresh":
        return {"unchanged": True, **(store.stats("train") if fresh else {"rank": ranks.rank})}
    if not ranks.agree(json.dumps(key, sort_keys=True)):
        raise ConfigError(
            "The machines of this training do not have the same model, pairs and options.",
            "copy the run directory to all of them and give the same command",
        )
    pairs, told = withhold(pairs, unwanted, config.train.hold_facts)
    shape = attach(lm, config.train, config.data.seed)
    pairs = [with_ids(lm, pair, config.generate.enable_thinking) for pair in pairs]
    with allocator_within(config.generate.memory_limit):
        pairs = referred(lm, pairs, config, on_progress)
    crossed = objective_of(config.train).crossed
    rows = training_rows(lm, pairs, config, path, crossed)
    rows, held = _parts(pairs, rows, config.train, config.data.seed)
    plan = proven(lm, rows, config, ranks, shape)
    trainer = Trainer(
        lm, rows, config.train, seed=config.data.seed, validation=held, plan=plan, ranks=ranks
    )
    if ranks.rank == 0:
        trainer.tell_large_blocks()
    stats: dict[str, Any] = {}
    state = {
        **key,
        "plan": [plan.micro_batch, plan.recompute, plan.logits, plan.piece],
        "ranks": ranks.size,
    }
    with allocator_within(config.generate.memory_limit), measured(stats):
        if ranks.rank == 0:
            store.write_text("config.toml", to_toml(config))
        metrics = _run(store, state, trainer, config.train, on_progress)
    stats.update(**_told(trainer, metrics, len(rows)), **told)
    if ranks.rank:
        return stats
    store.write_jsonl(METRICS, metrics)
    extra = {"model": config.data.model, "fingerprint": lm.fingerprint, "mipo": key}
    lora.save(lm, store.path / "adapter", shape, extra=extra)
    outputs = ["adapter/adapters.safetensors", "adapter/adapter_config.json", METRICS]
    store.record("train", key, outputs, stats)
    (store.path / STATE).unlink(missing_ok=True)
    return stats
