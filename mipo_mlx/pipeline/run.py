"""``mipo run``: generate, train, evaluate and report, one after the other.

``generate`` -> ``pairs.jsonl`` -> ``train`` -> ``adapter/`` -> ``evaluate`` -> ``eval.json`` ->
``report`` -> ``report.json``, ``report.html``. A step whose inputs are unchanged is not computed
again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mipo_mlx.config import RunConfig
from mipo_mlx.generation.inputs import read_inputs
from mipo_mlx.pipeline.evaluate import evaluate, prepare_studies
from mipo_mlx.pipeline.generate import generate
from mipo_mlx.pipeline.report import report
from mipo_mlx.pipeline.train import train
from mipo_mlx.reporting.summary import Report
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.training.withhold import held_facts
from mipo_mlx.types import Progress, silent

log = logging.getLogger("mipo_mlx")


@writing("run")
def run(run: Path, config: RunConfig, on_progress: Progress = silent) -> Report:
    """All four steps; steps already done with the same inputs are skipped."""
    prepare_studies(run, config, read_inputs(config.data))
    held_facts(config.train)
    if not config.train.pairs:
        made = generate(run, config, on_progress)
        for name in ("headroom", "warning"):
            if name in made:
                log.info("%s: %s", name, made[name])
    train(run, config, on_progress)
    evaluate(run, config, on_progress)
    return report(run, config, on_progress)
