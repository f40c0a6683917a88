"""One process writes to a run directory at a time.

A step is a scope (``writing``); the first write in it takes the directory's lock, so nothing is
made where a step ends before it writes. The lock is the system's (``flock``): it goes with the
process that holds it, however that ends, so there are no stale ones. The file's content only tells
who holds it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mipo_mlx.errors import MipoError

NAME = ".lock"
DRAFT = re.compile(r"\.\d+\.")  # what the name of a file begins with until it is whole


class _Scope:
    """The steps that are open in this process, and the locks they hold."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.held: dict[Path, IO[str]] = {}

    def close(self) -> None:
        """Let go of all locks."""
        while self.held:
            _, file = self.held.popitem()
            file.close()


_scope = _Scope()


@contextmanager
def writing(step: str) -> Iterator[None]:
    """Run directories that are written to in this scope are this process's until it ends.

    A step as a function is decorated with it.

    Args:
        step: what others are told, such as ``train``.
    """
    _scope.steps.append(step)
    try:
        yield
    finally:
        _scope.steps.pop()
        if not _scope.steps:
            _scope.close()


def acquire(folder: Path) -> None:
    """Take a directory's lock, unless no step is open or this process has it.

    Raises:
        MipoError: another process is writing to it; the message says which.
    """
    folder = folder.resolve()
    if not _scope.steps or folder in _scope.held:
        return
    handle = os.open(folder / NAME, os.O_CREAT | os.O_RDWR, 0o600)
    file = os.fdopen(handle, "r+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = file.read().strip() or "another process"
        file.close()
        raise MipoError(
            f"{folder}: {holder} is writing to this run.",
            "wait until it has ended, or end it; both would lose work otherwise",
        ) from error
    except OSError:  # a file system without locks
        file.close()
        return
    file.truncate()
    since = time.strftime("%H:%M:%S")
    file.write(f"'mipo {_scope.steps[0]}' (process {os.getpid()}, since {since})\n")
    file.flush()
    _scope.held[folder] = file
    for draft in folder.rglob(".*"):  # of processes that were killed: nobody else writes now
        if DRAFT.match(draft.name):
            draft.unlink(missing_ok=True)


os.register_at_fork(after_in_child=_scope.held.clear)  # the lock is the parent's
