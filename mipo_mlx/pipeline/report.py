"""``mipo report``: ``eval.json`` -> ``report.json``, ``report.md`` and ``report.html``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mipo_mlx.config import RunConfig
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.reporting import evidence, html
from mipo_mlx.reporting.markdown import markdown
from mipo_mlx.reporting.narrative.studies import trained_controls
from mipo_mlx.reporting.summary import Report, summarise
from mipo_mlx.results import Comparison, EvalResult, Json, Section
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, file_hash
from mipo_mlx.types import Progress, silent

log = logging.getLogger("mipo_mlx")
CONTROLS = "controls.json"  # what 'mipo controls' writes


def _rows(path: Path, step: str) -> Iterator[Json]:
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


def _trained_controls(run: Path) -> dict[str, Section]:
    """What ``mipo controls`` found, as a section; nothing where it is older than the evaluation."""
    path = run / CONTROLS
    if not path.is_file():
        return {}
    try:
        found = Comparison.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MipoError(
            f"{path}: not what 'mipo controls' wrote.", f"run 'mipo controls {run}' again"
        ) from error
    if found.eval != file_hash(run / "eval.json"):
        log.warning("%s is older than the evaluation: run 'mipo controls %s' again", path, run)
        return {}
    return {"trained_controls": trained_controls(found.lines, found.table)}


def _costs(steps: Mapping[str, Json]) -> tuple[float, int]:
    """Seconds of all steps, and their largest peak of memory in bytes."""
    seconds = round(sum(step.get("seconds", 0.0) for step in steps.values()), 2)
    return seconds, max((step.get("peak_memory_bytes", 0) for step in steps.values()), default=0)


@writing("report")
def report(run: Path, config: RunConfig, on_progress: Progress = silent) -> Report:
    """Summarise ``eval.json`` as ``report.json``, ``report.md`` and ``report.html``."""
    path = run / "eval.json"
    if not path.is_file():
        raise ConfigError(f"{path}: nothing to report.", f"run 'mipo eval {run}' first")
    store = RunStore(run)
    done = store.manifest()["steps"]
    training = list(_rows(run / "metrics.jsonl", "train"))
    pairs = [] if config.train.pairs else list(_pair_tokens(run))
    try:
        result = EvalResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        plots = evidence.plots(result.items, training, pairs)
        made = summarise(result, plots, evidence.provenance(done, config), config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MipoError(
            f"{path}: not a result of 'mipo eval'.", f"run 'mipo eval {run}' again"
        ) from error
    steps = {name: step["stats"] for name, step in done.items()}
    seconds, peak = _costs(steps)
    made = replace(
        made,
        sections={**made.sections, **_trained_controls(run)},
        steps=steps,
        run=str(run),
        seconds=seconds,
        peak_memory_bytes=peak,
    )
    store.write_json("report.json", made.to_json())
    store.write_text("report.md", markdown(made))
    store.write_text("report.html", html.render(made))
    return made
