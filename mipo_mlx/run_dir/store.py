"""The run directory: private, written atomically, with a manifest of hashes. The only writer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mipo_mlx.errors import MipoError
from mipo_mlx.run_dir import lock
from mipo_mlx.run_dir.environment import here

MANIFEST = "manifest.json"


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


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a loss of power, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(handle)


class RunStore:
    """A run directory: mode 0700, with a ``.gitignore`` that ignores all of it.

    Nothing is made before the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def prepare(self) -> None:
        """Make the directory, hold its lock where a step is writing, and keep others out of it.

        Raises:
            MipoError: it cannot be made, is somebody else's, or another process is writing to it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise MipoError(
                f"{self.path}: cannot be used as a run directory ({error.strerror}).",
                "give a directory that you may write to",
            ) from error
        lock.acquire(self.path)
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
        draft = target.with_name(f".{os.getpid()}.{target.name}")
        try:
            draft.unlink(missing_ok=True)  # of a process of the same number that was killed
            handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
            _sync_folder(target.parent)
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

    def append_jsonl(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to a file that ``write_jsonl`` made; readers see it at once.

        Raises:
            MipoError: it cannot be written.
        """
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        try:
            with (self.path / name).open("ab", buffering=0) as file:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise MipoError(
                f"{self.path / name}: cannot be written ({error.strerror}).",
                "make room, then run the command again; it goes on where it was",
            ) from error

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
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            mx.save_safetensors(str(draft), dict(arrays), metadata={"about": json.dumps(about)})
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            if draft.stat().st_size < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.replace(draft, target)
            _sync_folder(target.parent)
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
