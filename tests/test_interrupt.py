"""``mipo generate`` and ``mipo train`` killed at any moment, or on a full disk, lose nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
WORDS = ["--set", "prompts_per_context=1", "--max-tokens", "32"]
KILLS = 20


def start(run: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mipo_cli", "generate", str(run), *WORDS, *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )


def finish(run: Path, *words: str) -> tuple[int, str]:
    process = start(run, *words)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = tmp_path_factory.mktemp("whole") / "run"
    code, output = finish(run)
    assert code == 0, output
    return (run / "pairs.jsonl").read_bytes()


def test_killed_at_random_moments_the_pairs_are_the_same(tmp_path: Path, whole: bytes) -> None:
    """Each round: one process is killed at a random moment, the next one ends the work.

    A kill counts when it comes while answers are being written or scored.
    """
    rng = random.Random(0)
    hits = 0
    for attempt in range(4 * KILLS):
        run = tmp_path / f"run{attempt}"
        batch = str(rng.choice((0, 1, 7, 64)))
        process = start(run, "--generate-batch-size", batch)
        while process.poll() is None and not list(run.glob("answers-*.jsonl")):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 2.0))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        hits += not (run / "pairs.jsonl").exists()
        code, output = finish(run)
        assert code == 0, output
        assert (run / "pairs.jsonl").read_bytes() == whole
        assert not list(run.glob("answers-*"))
        if hits == KILLS:
            return
    raise AssertionError(f"only {hits} kills came in time")


def trained(run: Path, whole: bytes) -> Path:
    """A run directory with pairs and no adapter."""
    run.mkdir()
    (run / "pairs.jsonl").write_bytes(whole)
    return run


TRAIN = [sys.executable, "-m", "mipo_cli", "train"]
FEW = ["--epochs", "1", "--save-every", "1", "--batch-size", "32"]


def test_training_killed_at_random_steps_ends_with_the_same_adapter(
    tmp_path: Path, whole: bytes
) -> None:
    reference = trained(tmp_path / "reference", whole)
    subprocess.run([*TRAIN, str(reference), *FEW], check=True, capture_output=True)
    wanted = (reference / "adapter" / "adapters.safetensors").read_bytes()
    rng = random.Random(1)
    hits = 0
    for attempt in range(4 * KILLS):
        run = trained(tmp_path / f"train{attempt}", whole)
        process = subprocess.Popen([*TRAIN, str(run), *FEW], stdout=subprocess.DEVNULL)
        while process.poll() is None and not (run / "training.safetensors").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        hits += not (run / "adapter").exists()
        done = subprocess.run([*TRAIN, str(run), *FEW], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (run / "adapter" / "adapters.safetensors").read_bytes() == wanted
        assert not (run / "training.safetensors").exists()
        if hits == KILLS:
            return
    raise AssertionError(f"only {hits} kills came in time")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this machine lets one be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("ballast_kib", [990, 900])  # no room for the answers; for the pairs
def test_a_full_disk_is_told_and_the_run_goes_on_after_room_is_made(
    small_disk: Path, whole: bytes, ballast_kib: int
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * ballast_kib * 1024)
    code, output = finish(small_disk / "run")
    assert code == 1
    assert "No space left" in output
    assert not (small_disk / "run" / "pairs.jsonl").exists()
    (journal,) = (small_disk / "run").glob("answers-*.jsonl")
    answers = len(journal.read_text(encoding="utf-8").splitlines()) - 1
    assert answers > 10
    ballast.unlink()
    code, output = finish(small_disk / "run")
    assert code == 0, output
    assert (small_disk / "run" / "pairs.jsonl").read_bytes() == whole


def test_a_disk_that_fills_up_while_training_keeps_the_last_state(
    small_disk: Path, tmp_path: Path, whole: bytes
) -> None:
    """1 MiB holds the pairs, but not the adapter with its optimizer, which take about 2 MiB."""
    run = trained(small_disk / "run", whole)
    done = subprocess.run([*TRAIN, str(run), *FEW], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr or "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "training.safetensors").exists()
    assert not list(run.glob(".*safetensors*"))
    reference = trained(tmp_path / "reference", whole)
    subprocess.run([*TRAIN, str(reference), *FEW], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    done = subprocess.run([*TRAIN, str(run), *FEW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = "adapter/adapters.safetensors"
    assert (run / name).read_bytes() == (reference / name).read_bytes()
