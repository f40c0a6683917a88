"""The run directory: private, whole files, and the record of what is fresh."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mipo_mlx.errors import MipoError
from mipo_mlx.run_dir.journal import Journal
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, new_run_path


def test_files_are_private_and_the_directory_ignores_itself(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "a" / "run")
    path = store.write_text("x.txt", "hello")
    assert path.read_text() == "hello"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    assert (store.path / ".gitignore").read_text() == "*\n"


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "run")
    store.write_text("x.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MipoError, match=r"x\.txt: cannot be written \(No space left"):
        store.write_text("x.txt", "new")
    assert (store.path / "x.txt").read_text() == "old"
    assert sorted(p.name for p in store.path.iterdir()) == [".gitignore", "x.txt"]


def test_freshness_needs_the_same_inputs_and_the_same_outputs(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    assert not store.is_fresh("step", {"a": 1})
    store.write_text("out.txt", "made")
    store.record("step", {"a": 1}, ["out.txt"], {"seconds": 2})
    assert RunStore(store.path).is_fresh("step", {"a": 1})
    assert not store.is_fresh("step", {"a": 2})
    assert not store.is_fresh("other", {"a": 1})
    store.write_text("out.txt", "changed")
    assert not store.is_fresh("step", {"a": 1})
    (store.path / "out.txt").unlink()
    assert not store.is_fresh("step", {"a": 1})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": 3}', '{"steps": {"step": 1}}'])
def test_a_broken_manifest_counts_as_none(tmp_path: Path, text: str) -> None:
    store = RunStore(tmp_path / "run")
    store.write_text("manifest.json", text)
    assert not store.is_fresh("step", {})
    store.write_text("out.txt", "made")
    store.record("step", {}, ["out.txt"], {})
    assert store.is_fresh("step", {})


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(MipoError, match="cannot be used as a run directory"):
        RunStore(tmp_path / "run").write_text("x.txt", "")


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    assert not RunStore(tmp_path / "run").is_fresh("step", {})
    assert not (tmp_path / "run").exists()


def test_new_run_paths_do_not_collide(tmp_path: Path) -> None:
    first = new_run_path(tmp_path)
    first.mkdir()
    second = new_run_path(tmp_path)
    assert second != first
    assert not second.exists()


def journal(folder: Path, **inputs: int) -> Journal:
    return Journal(RunStore(folder / "run"), "work.jsonl", inputs)


def test_a_journal_gives_back_what_was_appended(tmp_path: Path) -> None:
    first = journal(tmp_path, seed=1)
    assert first.read() == []
    rows = [{"n": n, "text": "é\u2028\n" * n} for n in range(5)]
    for row in rows:
        first.append(row)
    assert journal(tmp_path, seed=1).read() == rows
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert journal(tmp_path, seed=2).read() == []
    first.remove()
    assert not first.path.exists()


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    whole = journal(tmp_path, seed=1)
    whole.read()
    for n in range(3):
        whole.append({"n": n})
    data = whole.path.read_bytes()
    head = data.index(b"\n") + 1
    for cut in range(head, len(data) + 1):
        whole.path.write_bytes(data[:cut])
        again = journal(tmp_path, seed=1)
        kept = again.read()
        ends = [place for place, byte in enumerate(data) if byte == 10 and place >= head]
        assert kept == [{"n": n} for n in range(sum(cut >= end for end in ends))]
        for n in range(len(kept), 3):
            again.append({"n": n})
        assert whole.path.read_bytes() == data


@pytest.mark.parametrize("fault", ["line", "head", "newline", "other", "bytes"])
def test_nothing_is_ever_removed_from_a_journal(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line changed by hand, the first line lost, a cut, other inputs, bytes that are no text."""
    work = journal(tmp_path, seed=1)
    work.read()
    rows = [{"n": n} for n in range(93)]
    for row in rows:
        work.append(row)
    lines = work.path.read_bytes().splitlines(keepends=True)
    changed = {
        "line": [lines[0], lines[1].replace(b'"n": 0', b'"n": 7'), *lines[2:]],
        "head": lines[1:],
        "newline": [*lines[:-1], lines[-1].rstrip()],
        "other": lines,
        "bytes": [*lines, b"\xff\xfe[[[\n"],
    }[fault]
    work.path.write_bytes(b"".join(changed))
    again = journal(tmp_path, seed=2 if fault == "other" else 1)
    lost = {"line": rows[:1], "other": rows}.get(fault, [])
    assert again.read() == [row for row in rows if row not in lost]
    again.append({"n": 93})
    assert again.read()[-1] == {"n": 93}  # as a further process would find it
    kept = again.aside.read_bytes().splitlines() if again.aside.exists() else []
    gone = [line.rstrip() for line in changed if line.rstrip() not in again.path.read_bytes()]
    assert kept == gone
    assert len(kept) == {"line": 1, "other": 94, "bytes": 1}.get(fault, 0)
    assert (f"{len(kept)} lines cannot be used" in caplog.text) == bool(kept)


HOLD = """
import sys, time
from pathlib import Path
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore
with writing("train"):
    RunStore(Path(sys.argv[1])).write_text("a", "a")
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_never_write_to_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with writing("eval"), pytest.raises(MipoError) as caught:
            RunStore(run).write_text("a", "b")
        told = f"'mipo train' (process {other.pid}, since"
        assert told in str(caught.value)
        assert (run / "a").read_text() == "a"
        other.kill()
        other.wait()
    with writing("eval"):  # the lock went with its process
        RunStore(run).write_text("a", "b")
        with writing("report"):  # a step within a step
            RunStore(run).write_text("a", "c")
        RunStore(run).write_text("a", "d")
    assert (run / "a").read_text() == "d"
    assert stat.S_IMODE((run / ".lock").stat().st_mode) == 0o600


def test_a_run_directory_open_to_others_is_closed(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (tmp_path / "run").mkdir(mode=0o777)
        RunStore(tmp_path / "run").write_text("a", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "run" / "a").stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    work = journal(tmp_path, seed=1)
    work.read()
    work.path.unlink()
    work.path.symlink_to("/dev/full")
    with pytest.raises(MipoError, match="No space left") as caught:
        work.append({"n": 1})
    assert "goes on" in caught.value.hint
