"""From ``pairs.jsonl`` to ``adapter/``: what ``mipo train`` reads, keeps on the way and writes.

The state of a run is saved every so often and when it is stopped, in one file that is replaced
whole. The same command goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mipo_mlx.config import RunConfig, TrainConfig, to_toml
from mipo_mlx.data.batch import EncodedPair
from mipo_mlx.data.read import read_pairs
from mipo_mlx.data.split import split
from mipo_mlx.errors import ConfigError
from mipo_mlx.lm import adapter, chat
from mipo_mlx.lm.load import LanguageModel, load_model
from mipo_mlx.lm.memory import measured
from mipo_mlx.objectives import GRIDS, TrainingRow
from mipo_mlx.reference import Progress, with_reference
from mipo_mlx.store import RunStore, file_hash
from mipo_mlx.train import Trainer
from mipo_mlx.types import PreferencePair

STATE = "training.safetensors"
NO_MATTER = ("pairs", "save_every")  # options without a say in the adapter's numbers


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


def _rows(
    lm: LanguageModel, pairs: Sequence[PreferencePair], config: RunConfig, path: Path
) -> list[TrainingRow]:
    """Token ids and reference log-probs of pairs, checked against the model's window."""
    known: dict[str, tuple[int, ...]] = {}
    prompts: dict[tuple[str, str], tuple[int, ...]] = {}
    rows = []
    for pair in pairs:
        text = json.dumps([dict(message) for message in pair.messages])
        if text not in known:
            thinking = config.generate.enable_thinking
            ids = chat.prompt_ids(lm.tokenizer, pair.messages, enable_thinking=thinking)
            known[text] = tuple(ids)
        prompts[pair.context_id, pair.prompt_id or pair.id] = known[text]
    for pair in pairs:
        prompt = known[json.dumps([dict(message) for message in pair.messages])]
        sides = (pair.chosen.token_ids, pair.rejected.token_ids)
        other: tuple[int, ...] = ()
        if config.train.loss in GRIDS:
            other = prompts.get(
                (pair.negative_context_id, pair.negative_prompt_id or pair.prompt_id), ()
            )
            other = () if other == prompt else other
        longest = max(len(prompt), len(other)) + max(map(len, sides))
        if lm.max_tokens is not None and longest > lm.max_tokens:
            raise ConfigError(
                f"{path}: pair {pair.id!r} takes {longest} tokens, more than the model's window "
                f"of {lm.max_tokens}.",
                "shorten it or leave it out",
            )
        reference = (float(pair.ref_chosen_logps or 0.0), float(pair.ref_rejected_logps or 0.0))
        encoded = EncodedPair(pair.id, prompt, sides, pair.context_id)
        rows.append(TrainingRow(encoded, reference, other))
    return rows


def _parts(
    pairs: Sequence[PreferencePair], rows: Sequence[TrainingRow], config: TrainConfig, seed: int
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Rows to train on and rows to validate on: other users, or other prompts of a single one."""
    if not config.validation:
        return list(rows), []
    by_user = len({pair.context_id for pair in pairs}) > 1
    names = [pair.context_id if by_user else pair.prompt_id or pair.id for pair in pairs]
    if len(set(names)) < 2:
        raise ConfigError(
            "--validation needs pairs of at least two users or prompts.", "leave it out"
        )
    held = set(split({name: name for name in names}, config.validation, seed)[1])
    sides: tuple[list[TrainingRow], list[TrainingRow]] = ([], [])
    for name, row in zip(names, rows, strict=True):
        sides[name in held].append(row)
    return sides


def _attach(lm: LanguageModel, config: TrainConfig, seed: int) -> adapter.Shape:
    if config.adapter_path:
        return adapter.go_on(lm, Path(config.adapter_path))
    scale = config.lora_scale / config.lora_rank**0.5 if config.rslora else config.lora_scale
    return adapter.attach(
        lm,
        rank=config.lora_rank,
        scale=scale,
        num_layers=config.lora_layers,
        seed=seed,
        modules=[name.strip() for name in config.lora_modules.split(",") if name.strip()],
        kind=config.fine_tune_type,
    )


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
        return list(about["log"])
    except (KeyError, TypeError, ValueError):
        return []


def _run(
    store: RunStore, key: dict[str, Any], trainer: Trainer, every: int, on_progress: Progress
) -> list[dict[str, Any]]:
    """All steps, their metrics; the last whole step is saved when something stops them."""
    log = _saved(store, key, trainer)
    resumed = len(log)
    good = trainer.snapshot()

    def save() -> None:
        arrays, counters = good
        store.write_arrays(STATE, arrays, {"inputs": key, "counters": counters, "log": log})
        store.write_jsonl("metrics.jsonl", log)

    try:
        for step in trainer.run():
            log.append({"step": step.step, **step.values})
            good = trainer.snapshot()
            if step.step % every == 0 and step.step < step.total_steps:
                save()
            on_progress(f"train, loss {step.values['loss']:.3f}", step.step, step.total_steps)
    except BaseException:
        if len(log) > resumed:
            save()
        raise
    return log


def train(run: Path, config: RunConfig, on_progress: Progress) -> dict[str, Any]:
    """Train ``adapter/`` on the run's pairs or on ``--pairs``; ``metrics.jsonl`` a line a step.

    Raises:
        MipoError: pairs, model or options cannot be used, or the loss stops being finite.
    """
    start = Path(config.train.adapter_path) if config.train.adapter_path else None
    lm = load_model(config.data.model, adapter_path=start, offline=config.data.offline)
    path = Path(config.train.pairs) if config.train.pairs else run / "pairs.jsonl"
    pairs = _read(lm, run, config, path)
    settings = {name: v for name, v in asdict(config.train).items() if name not in NO_MATTER}
    if start:
        settings["adapter_path"] = file_hash(start / adapter.WEIGHTS)
    key = {
        "model": lm.fingerprint,
        "pairs": file_hash(path),
        "seed": config.data.seed,
        "enable_thinking": config.generate.enable_thinking,
        **settings,
    }
    store = RunStore(run)
    if store.is_fresh("train", key):
        return {"unchanged": True, **store.stats("train")}
    if any(pair.ref_chosen_logps is None for pair in pairs):
        thinking = config.generate.enable_thinking
        pairs = with_reference(lm, pairs, enable_thinking=thinking, on_progress=on_progress)
    rows, held = _parts(pairs, _rows(lm, pairs, config, path), config.train, config.data.seed)
    shape = _attach(lm, config.train, config.data.seed)
    trainer = Trainer(lm, rows, config.train, seed=config.data.seed, validation=held)
    stats: dict[str, Any] = {}
    with measured(stats):
        store.write_text("config.toml", to_toml(config))
        log = _run(store, key, trainer, config.train.save_every, on_progress)
    stats.update(pairs=len(rows), optimizer_steps=len(log))
    if held:
        stats.update(validation_pairs=len(held), best_step=trainer.counters.best_step)
    if trainer.counters.stopped:
        stats["stopped"] = trainer.counters.stopped
    if log:
        stats.update(first=log[0], last=log[-1])
    store.write_jsonl("metrics.jsonl", log)
    extra = {"model": config.data.model, "fingerprint": lm.fingerprint, "mipo": key}
    adapter.save(lm, store.path / "adapter", shape, extra=extra)
    outputs = ["adapter/adapters.safetensors", "adapter/adapter_config.json", "metrics.jsonl"]
    store.record("train", key, outputs, stats)
    (store.path / STATE).unlink(missing_ok=True)
    return stats
