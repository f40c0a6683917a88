"""The run directory: private, written atomically, with a manifest of hashes. The only writer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from mipo_mlx.errors import MipoError
from mipo_mlx.run_dir.environment import here
from mipo_mlx.types import Response

MANIFEST = "manifest.json"
CHECK = "check"  # name of the checksum in a journal's lines


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_run_path(root: Path) -> Path:
    """A fresh path under ``root``, named by date and time; nothing is created."""
    stem = time.strftime("%Y%m%d-%H%M%S")
    path, number = root / stem, 1
    while path.exists():
        path, number = root / f"{stem}-{number}", number + 1
    return path


class RunStore:
    """A run directory: mode 0700, with a ``.gitignore`` that ignores all of it.

    Nothing is made before the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def prepare(self) -> None:
        """Make the directory.

        Raises:
            MipoError: it cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MipoError(
                f"{self.path}: cannot be used as a run directory ({error.strerror}).",
                "give a directory that you may write to",
            ) from error
        if not (self.path / ".gitignore").exists():
            self._replace(".gitignore", "*\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a file whole or not at all, mode 0600.

        Raises:
            MipoError: it cannot be written; what stood before still stands.
        """
        self.prepare()
        return self._replace(name, text)

    def _replace(self, name: str, text: str) -> Path:
        target = self.path / name
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise MipoError(
                f"{target}: cannot be written ({error.strerror}).",
                "make room or check permissions, then run the command again",
            ) from error
        return target

    def write_json(self, name: str, value: Any) -> Path:
        """A JSON file, indented."""
        return self.write_text(name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """A JSON object a line."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return self.write_text(name, lines)

    def write_arrays(self, name: str, arrays: Mapping[str, mx.array], about: Any) -> Path:
        """A safetensors file with JSON of its own, whole or not at all, mode 0600.

        Raises:
            MipoError: it cannot be written; what stood before still stands.
        """
        self.prepare()
        target = self.path / name
        draft = target.with_name(f".{os.getpid()}.{target.name}")
        size = sum(array.nbytes for array in arrays.values())
        try:
            os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
            mx.save_safetensors(str(draft), dict(arrays), metadata={"about": json.dumps(about)})
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            if draft.stat().st_size < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.replace(draft, target)
        except (OSError, RuntimeError) as error:
            draft.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error)
            raise MipoError(
                f"{target}: cannot be written ({reason}).",
                "make room, then run the command again; it goes on where it was",
            ) from error
        return target

    def read_arrays(self, name: str) -> tuple[dict[str, mx.array], Any] | None:
        """What ``write_arrays`` wrote, or None where there is nothing whole."""
        try:
            found: Any = mx.load(str(self.path / name), return_metadata=True)
            return dict(found[0]), json.loads(found[1]["about"])
        except (OSError, RuntimeError, ValueError, KeyError):
            return None

    def manifest(self) -> dict[str, Any]:
        """The record of all steps; steps that cannot be read count as not done."""
        try:
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            steps = dict(found["steps"])
        except (OSError, ValueError, TypeError, KeyError):
            steps = {}
        whole = {"inputs", "outputs", "stats"}
        return {
            "steps": {
                name: step
                for name, step in steps.items()
                if isinstance(step, dict) and whole <= set(step)
            }
        }

    def stats(self, step: str) -> dict[str, Any]:
        """What was recorded of a step that was done."""
        return dict(self.manifest()["steps"][step]["stats"])

    def is_fresh(self, step: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a step was done with these inputs and its outputs stand unchanged."""
        entry = self.manifest()["steps"].get(step)
        if not entry or entry["inputs"] != dict(inputs):
            return False
        return all(
            (self.path / name).is_file() and file_hash(self.path / name) == digest
            for name, digest in entry["outputs"].items()
        )

    def record(
        self,
        step: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        stats: Mapping[str, Any],
    ) -> None:
        """Note a step as done with these inputs, here; ``outputs`` are names in the directory."""
        manifest = self.manifest()
        manifest["steps"][step] = {
            "inputs": dict(inputs),
            "outputs": {name: file_hash(self.path / name) for name in outputs},
            "stats": dict(stats),
            "made_on": here(),
        }
        self.write_json(MANIFEST, manifest)


def _check(row: Mapping[str, Any]) -> str:
    """Checksum of a journal's row."""
    text = json.dumps(row, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Journal:
    """Work done so far, a checked line each, so that an interrupted step goes on where it was.

    The first line names the inputs; a journal of other inputs is started anew. A last line cut
    short, as by a crash, is dropped; any other line that fails its checksum is an error.
    """

    def __init__(self, store: RunStore, name: str, inputs: Mapping[str, Any]) -> None:
        self.store, self.path = store, store.path / name
        self.head = {"inputs": json.loads(json.dumps(dict(inputs)))}

    def read(self) -> list[dict[str, Any]]:
        """Rows of an earlier, interrupted run with the same inputs, in the order of appending.

        Raises:
            MipoError: a line was changed; its number is named.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError:
            lines = []
        rows = [self._row(line, number) for number, line in enumerate(lines[:-1], 1)]
        if not rows or rows[0] != self.head:
            self.store.write_text(self.path.name, self._line(self.head))
            return []
        if lines[-1]:  # cut short
            with self.path.open("rb+") as file:
                file.truncate(sum(len(line) + 1 for line in lines[:-1]))
        return rows[1:]

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            if row.pop(CHECK) == _check(row):
                return dict(row)
        except (ValueError, KeyError, AttributeError):
            pass
        raise MipoError(
            f"{self.path}:{number}: this line was changed since it was written.",
            "delete the file to start this step anew",
        )

    def _line(self, row: Mapping[str, Any]) -> str:
        return json.dumps({**row, CHECK: _check(row)}, ensure_ascii=False) + "\n"

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on its way to the disk when this returns.

        Raises:
            MipoError: it cannot be written; the rows before it stand.
        """
        data = self._line(row).encode()
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
