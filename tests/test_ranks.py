"""Two processes on one machine, started by MLX's own launcher, against one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mipo_mlx import pipeline
from mipo_mlx.config import resolve, to_toml
from mipo_mlx.pipeline.train import STATE
from mipo_mlx.training.distributed import LAUNCHED, Ranks
from samples import head, steady

TRAIN = """
import sys
from pathlib import Path
from mipo_mlx import pipeline
from mipo_mlx.config import read_toml, resolve
stop = int(sys.argv[3])
def progress(stage, done, total):
    if stage.startswith("train") and done == stop:
        raise KeyboardInterrupt
pipeline.train.train(Path(sys.argv[1]), resolve(read_toml(Path(sys.argv[2]))), progress)
"""


def launch(run: Path, config: Path, stop: int = 0) -> None:
    """``mlx.launch -n 2``, each process with one thread."""
    script = run / "train.py"
    script.write_text(TRAIN)
    launcher = Path(sys.executable).parent / "mlx.launch"
    process = subprocess.Popen(
        [launcher, "-n", "2", "--backend", "ring", sys.executable, script, run, config, str(stop)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # ranks that wait for each other spin for ever
        raise
    assert stop or "Traceback" not in said, said


def lines(run: Path) -> list[dict[str, Any]]:
    return [steady(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with pairs, trained by one process, and its options."""
    folder = tmp_path_factory.mktemp("ranks")
    options = resolve(
        flags={
            "contexts": head("contexts_train.jsonl", 6, folder),
            "prompts": head("prompts_train.jsonl", 4, folder),
            "held_out_users": 0.0,
            "held_out_prompts": 0.0,
            "min_pmi": -1000.0,
            "batch_size": 5,
            "epochs": 1,
            "validation": 0.3,
            "eval_every": 2,
        }
    )
    config = folder / "options.toml"
    config.write_text(to_toml(options))
    pipeline.generate.generate(folder / "run", options)
    pipeline.train.train(folder / "run", options)
    return folder / "run", config


def fresh(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("pairs.jsonl", "manifest.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def test_two_processes_train_the_adapter_of_one(made: tuple[Path, Path], tmp_path: Path) -> None:
    whole, config = made
    run = fresh(whole, tmp_path / "run")
    launch(run, config, stop=2)
    assert not (run / "adapter").exists()
    assert (run / STATE).is_file()
    launch(run, config)
    weights = "adapter/adapters.safetensors"
    one, two = mx.load(str(whole / weights)), mx.load(str(run / weights))
    assert isinstance(one, dict) and isinstance(two, dict)
    gap = sum(float(((one[name] - two[name]) ** 2).sum()) for name in one)
    assert (gap / sum(float((one[name] ** 2).sum()) for name in one)) ** 0.5 < 1e-5
    mine, theirs = lines(whole), lines(run)
    assert len(mine) == len(theirs) > 2
    for line, other in zip(mine, theirs, strict=True):
        del line["forwarded_tokens"], other["forwarded_tokens"]  # contexts on both sides go twice
        if line["step"] == 1:  # the policy is the reference: which margin is above 0 is rounding
            del line["rewards/accuracies"], other["rewards/accuracies"]
        assert line == pytest.approx(other, rel=2e-4, abs=2e-5)


def test_without_a_launcher_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    ranks = Ranks()
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.mine([1, 2, 3]) == [1, 2, 3]
    assert ranks.agree("anything")
    assert ranks.sums([1.0, 2.0]) == [1.0, 2.0]
    assert ranks.text_from_first("text") == "text"


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_row_belongs_to_one_rank(size: int) -> None:
    ranks = Ranks()
    ranks.size = size
    for count in (1, 2, 4, 7, 12):
        parts = []
        for ranks.rank in range(size):
            parts += ranks.mine(list(range(count)))
        assert parts == list(range(count))
