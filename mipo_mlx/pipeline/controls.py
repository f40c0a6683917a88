"""Trained controls of a run: the same users, prompts and settings, but for one thing each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mipo_mlx import pipeline
from mipo_mlx.config import EMBEDDED_MISSING, RunConfig, resolve, to_dict
from mipo_mlx.errors import ConfigError
from mipo_mlx.pipeline.compare import beside, kind
from mipo_mlx.pipeline.report import CONTROLS
from mipo_mlx.results import Comparison
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, file_hash
from mipo_mlx.types import Progress

FOLDER = "controls"  # in the run directory
# name -> options that differ from the run's
VARIANTS: dict[str, dict[str, Any]] = {
    "sft": {"loss": "sft"},
    "missing": {"negatives": "missing"},
    "random": {"negatives": "random"},
    "mixed": {"negatives": "mixed"},
    "k4": {"num_negatives": 4, "loss": "mipo"},
}
# what the run's own evaluation has told, or what would only be repeated
QUIET: dict[str, Any] = {
    **{"cad": "", "judge": "", "tasks": "", "report_to": ""},
    **{"retention": False, "memorization": False, "diversity_samples": 0},
}


def variant(config: RunConfig, name: str) -> RunConfig:
    """The options of one control; missing negatives take the embedded model's own rate for them.

    Raises:
        ConfigError: there is no such control.
    """
    if name not in VARIANTS:
        raise ConfigError(
            f"{name!r} is not a control.", f"choose from {', '.join(VARIANTS)}, comma-separated"
        )
    flat = {key: value for part in to_dict(config).values() for key, value in part.items()}
    changed = dict(VARIANTS[name])
    if name == "missing" and config.data.model == "embedded":
        changed |= EMBEDDED_MISSING
    return resolve(flat, {**QUIET, **changed})


def _share_pairs(run: Path, other: Path) -> None:
    """The run's own pairs stand in ``other`` as if made there."""
    entry = RunStore(run).manifest()["steps"].get("generate")
    store = RunStore(other)
    if entry and not (other / "pairs.jsonl").is_file():
        store.write_text("pairs.jsonl", (run / "pairs.jsonl").read_text(encoding="utf-8"))
        store.record("generate", entry["inputs"], ["pairs.jsonl"], entry["stats"])


@writing("controls")
def control(
    run: Path, config: RunConfig, names: Sequence[str], on_progress: Progress
) -> Comparison:
    """Train and evaluate controls in ``RUN/controls/NAME``, and compare all with the run.

    What was done before with the same options is not done again. Writes ``RUN/controls.json``, what
    ``beside`` returns, which ``mipo report`` shows from then on.

    Args:
        run: an evaluated run of the objective ``context`` on pairs of its own.
        config: of the run.
        names: of ``VARIANTS``; those that are the run itself are left out.
        on_progress: told of stages.

    Raises:
        MipoError: the run is not of that kind.
    """
    wanted = {name: variant(config, name) for name in names}
    if config.train.pairs or config.data.objective != "context":
        raise ConfigError(
            f"{run}: controls are trained for runs of the context objective on pairs of their own.",
            "give a run that 'mipo generate' and 'mipo train' made without --pairs",
        )
    pipeline.evaluate.evaluate(run, config, on_progress)
    own = kind(config)
    folders = []
    for name, options in wanted.items():
        if kind(options) == own:
            continue
        folder = run / FOLDER / name
        if options.generate == config.generate:
            _share_pairs(run, folder)
        pipeline.generate.generate(folder, options, on_progress)
        pipeline.train.train(folder, options, on_progress)
        pipeline.evaluate.evaluate(folder, options, on_progress)
        folders.append(folder)
    found = beside([run, *folders], resamples=config.eval.resamples, seed=config.data.seed)
    found = replace(found, eval=file_hash(run / "eval.json"))
    RunStore(run).write_json(CONTROLS, found.to_json())
    return found
