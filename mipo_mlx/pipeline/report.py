"""``mipo report``: ``eval.json`` -> ``report.json``, ``report.md`` and ``report.html``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mipo_mlx.config import RunConfig
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.reporting import evidence, html
from mipo_mlx.reporting.markdown import markdown
from mipo_mlx.reporting.summary import summarise
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, file_hash
from mipo_mlx.types import Progress, silent

log = logging.getLogger("mipo_mlx")
CONTROLS = "controls.json"  # what 'mipo controls' writes


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


def _trained_controls(run: Path) -> dict[str, Any]:
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


@writing("report")
def report(run: Path, config: RunConfig, on_progress: Progress = silent) -> dict[str, Any]:
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
        summary = summarise(results, steps)
        summary["sections"].update(_trained_controls(run))
        text = markdown(summary)
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
    store.write_text("report.html", html.render(summary))
    return summary
