"""Work done so far, a checked line each, so that an interrupted step goes on where it was.

Nothing is ever removed from a journal: a line that cannot be read moves to a file beside it, and is
counted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mipo_mlx.errors import MipoError
from mipo_mlx.run_dir.store import RunStore
from mipo_mlx.types import Response

CHECK = "check"  # name of the checksum in a line
ASIDE = ".unreadable"  # ending of the file beside a journal
log = logging.getLogger("mipo_mlx")


def _check(row: Mapping[str, Any]) -> str:
    """Checksum of a journal's row."""
    text = json.dumps(row, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Journal:
    """Rows of JSON under the inputs they were made from, which the first line names.

    Args:
        store: of the run directory.
        name: of the file.
        inputs: JSON-able.
    """

    def __init__(self, store: RunStore, name: str, inputs: Mapping[str, Any]) -> None:
        self.store, self.path = store, store.path / name
        self.head = {"inputs": json.loads(json.dumps(dict(inputs)))}

    def read(self) -> list[dict[str, Any]]:
        """Rows of an earlier, interrupted run with the same inputs, in the order of appending.

        Lines that fail their checksum, such as a last one cut short by a crash or one changed by
        hand, are set aside; so is a whole journal of other inputs. A missing first line or last
        newline costs nothing.

        Raises:
            MipoError: the file cannot be written.
        """
        data = self.path.read_bytes() if self.path.is_file() else b""
        lines = [line for line in data.split(b"\n") if line]
        rows = [_row(line) for line in lines]
        good = [row for row in rows if row is not None]
        headed = bool(good) and good[0].keys() == {"inputs"}
        if headed and good[0] != self.head:
            self._set_aside(lines)
            good, headed = [], False
        else:
            self._set_aside([line for line, row in zip(lines, rows, strict=True) if row is None])
        whole = headed and len(good) == len(lines) and data.endswith(b"\n")
        good = good[headed:]
        if not whole:
            text = "".join(self._line(row) for row in [self.head, *good])
            self.store.write_text(self.path.name, text)
        return good

    @property
    def aside(self) -> Path:
        """Where lines go that cannot be read."""
        return self.path.with_name(self.path.name + ASIDE)

    def _set_aside(self, lines: list[bytes]) -> None:
        if not lines:
            return
        self.store.prepare()
        handle = os.open(self.aside, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(b"\n".join(lines) + b"\n")
        log.warning(
            "%s: %d lines cannot be used and were moved to %s",
            self.path,
            len(lines),
            self.aside.name,
        )

    def _line(self, row: Mapping[str, Any]) -> str:
        return json.dumps({**row, CHECK: _check(row)}, ensure_ascii=False) + "\n"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on its way to the disk when this returns.

        Raises:
            MipoError: it cannot be written; the rows before it stand.
        """
        data = self._line(row).encode()
        self.store.prepare()
        try:
            size = self.path.stat().st_size
            with self.path.open("ab", buffering=0) as file:
                if file.write(data) != len(data):
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise MipoError(
                f"{self.path}: cannot be written ({error.strerror}).",
                "make room, then run the command again; it goes on where it was",
            ) from error

    def remove(self) -> None:
        """Take the file away, once its work is in the step's own outputs."""
        self.path.unlink(missing_ok=True)
        self.aside.unlink(missing_ok=True)


def _row(line: bytes) -> dict[str, Any] | None:
    """A line's row, or None where it fails its checksum."""
    try:
        row = json.loads(line)
        return dict(row) if row.pop(CHECK) == _check(row) else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


class AnswerFile:
    """Sampled answers as rows of a journal of their own, one file for each set of inputs.

    ``options``, where given, is the run's ``config.toml`` and is written with its first answer, so
    that the same command without options goes on with them. ``name`` is what the file's name
    begins with.
    """

    def __init__(
        self,
        store: RunStore,
        inputs: Mapping[str, Any],
        options: str = "",
        *,
        name: str = "answers",
    ) -> None:
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self.store, self.options = store, options
        self.journal = Journal(store, f"{name}-{digest[:12]}.jsonl", inputs)

    def read(self) -> Iterator[tuple[str, Response]]:
        """Answers of an earlier, interrupted run with the same inputs, by key."""
        if self.options:
            self.store.write_text("config.toml", self.options)
        for row in self.journal.read():
            yield row["key"], Response(row["text"], tuple(row["token_ids"]), row["finish_reason"])

    def append(self, key: str, response: Response) -> None:
        """Keep one more."""
        self.journal.append({"key": key, **asdict(response)})
