"""Where files meet maths: each step is a function from the files before it to the files after it.

``generate`` -> ``pairs.jsonl`` -> ``train`` -> ``adapter/`` -> ``evaluate`` -> ``eval.json`` ->
``report`` -> ``report.json``, ``report.html``. A step whose inputs are unchanged is not computed
again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mipo_mlx import evidence, exam, fit, page
from mipo_mlx import report as reporting
from mipo_mlx.config import RunConfig, read_toml, text_settings, to_toml
from mipo_mlx.data.pairs import pair_row
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.generate import generate as make_pairs
from mipo_mlx.inputs import read_inputs
from mipo_mlx.lm.memory import allocator_within, measured
from mipo_mlx.pairing import describe, final_contrasts, prepare
from mipo_mlx.reference import Progress
from mipo_mlx.store import AnswerFile, RunStore, file_hash
from mipo_mlx.withhold import held_facts

Summary = dict[str, Any]
log = logging.getLogger("mipo_mlx")
CONTROLS = "controls.json"  # what 'mipo controls' writes


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def saved_config(run: Path) -> dict[str, Any] | None:
    """Flat options of an earlier step of this run, or None for a fresh directory."""
    path = run / "config.toml"
    return read_toml(path) if path.is_file() else None


def generate(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Make ``pairs.jsonl``. Nothing is written before all inputs have been read and checked."""
    with allocator_within(config.generate.memory_limit):
        return _generate(run, config, on_progress)


def _generate(run: Path, config: RunConfig, on_progress: Progress) -> Summary:
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
    stats: Summary = {}
    answers = AnswerFile(store, key, to_toml(config))
    with measured(stats):
        made = make_pairs(
            work.lm,
            work.everybody,
            work.inputs.train_prompts,
            final_contrasts(work, config, on_progress, answers),
            config.generate,
            seed=config.data.seed,
            on_progress=on_progress,
            journal=answers,
        )
    stats.update(describe(made, work), contexts_cut=work.cut)
    stats["tokens_per_second"] = round(made.tokens / max(stats["seconds"], 1e-9), 1)
    store.write_jsonl("pairs.jsonl", [pair_row(pair) for pair in made.pairs])
    store.record("generate", key, ["pairs.jsonl"], stats)
    answers.journal.remove()
    return stats


def train(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Train ``adapter/`` on the run's pairs or on ``--pairs``; ``metrics.jsonl`` a line a step."""
    with allocator_within(config.generate.memory_limit):
        return fit.train(run, config, on_progress)


def evaluate(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Compare base and adapter on what was held out: ``eval.json``, ``answers.jsonl``."""
    with allocator_within(config.generate.memory_limit):
        return exam.evaluate(run, config, on_progress)


def _rows(path: Path, step: str) -> Iterator[dict[str, Any]]:
    """Rows of a step's JSONL, none where it was not written."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield dict(json.loads(line))
            except (TypeError, ValueError) as error:
                raise MipoError(
                    f"{path}:{number}: not what 'mipo {step}' wrote.",
                    f"run 'mipo {step}' again, or take the file away",
                ) from error


def _pair_tokens(run: Path) -> Iterator[tuple[int, int]]:
    """Lengths of the chosen and the rejected answer of each pair that this run made."""
    for row in _rows(run / "pairs.jsonl", "generate"):
        yield int(row.get("chosen_length", 0)), int(row.get("rejected_length", 0))


def _trained_controls(run: Path) -> Summary:
    """What ``mipo controls`` found, as a section; nothing where it is older than the evaluation."""
    path = run / CONTROLS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["eval"] != file_hash(run / "eval.json"):
            log.warning("%s is older than the evaluation: run 'mipo controls %s' again", path, run)
            return {}
        section = {"lines": found["lines"], "tables": [found["table"]], "metrics": []}
    except (ValueError, KeyError, TypeError) as error:
        raise MipoError(
            f"{path}: not what 'mipo controls' wrote.", f"run 'mipo controls {run}' again"
        ) from error
    return {
        "trained_controls": {
            "title": "Trained controls",
            "about": "The same users, prompts and settings, but for one thing each. Intervals are "
            "of paired differences to this run, users resampled whole, tests Holm-corrected.",
            **section,
        }
    }


def report(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Summarise ``eval.json`` as ``report.json``, ``report.md`` and ``report.html``."""
    path = run / "eval.json"
    if not path.is_file():
        raise ConfigError(f"{path}: nothing to report.", f"run 'mipo eval {run}' first")
    store = RunStore(run)
    done = store.manifest()["steps"]
    training = list(_rows(run / "metrics.jsonl", "train"))
    pairs = [] if config.train.pairs else list(_pair_tokens(run))
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        steps = {name: step["stats"] for name, step in done.items()}
        summary = reporting.summarise(results, steps)
        summary["sections"].update(_trained_controls(run))
        text = reporting.markdown(summary)
        summary["plots"] = evidence.plots(results, training, pairs)
        summary["provenance"] = evidence.provenance(done, config)
        summary["limits"] = evidence.limits(summary, config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MipoError(
            f"{path}: not a result of 'mipo eval'.", f"run 'mipo eval {run}' again"
        ) from error
    summary["run"] = str(run)
    summary["seconds"] = round(sum(step.get("seconds", 0.0) for step in steps.values()), 2)
    peaks = [step.get("peak_memory_bytes", 0) for step in steps.values()]
    summary["peak_memory_bytes"] = max(peaks, default=0)
    store.write_json("report.json", summary)
    store.write_text("report.md", text)
    store.write_text("report.html", page.render(summary))
    return summary


def run(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """All four steps; steps already done with the same inputs are skipped."""
    exam.prepare_studies(run, config, read_inputs(config.data))
    held_facts(config.train)
    if not config.train.pairs:
        generate(run, config, on_progress)
    train(run, config, on_progress)
    evaluate(run, config, on_progress)
    return report(run, config, on_progress)
