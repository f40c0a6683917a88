"""``mipo check``: whether the files of a run are what its steps wrote. Reads only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mipo_mlx.config import saved_config
from mipo_mlx.errors import ConfigError
from mipo_mlx.run_dir.journal import ASIDE
from mipo_mlx.run_dir.store import MANIFEST, RunStore, file_hash

PAIRS, ADAPTER = "pairs.jsonl", "adapter/adapters.safetensors"
# whose input each file is: step -> its key in the step's inputs
READERS = {PAIRS: ("train", "pairs"), ADAPTER: ("eval", "adapter")}


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written.

    Attributes:
        file: its name in the run directory.
        what: is wrong with it.
        hint: what to do.
    """

    file: str
    what: str
    hint: str


def _changed(store: RunStore, steps: Mapping[str, Any]) -> Iterator[Fault]:
    """Files that are missing, or not as their step wrote them."""
    for name, step in steps.items():
        again = f"run 'mipo {name} {store.path}' again"
        for file, digest in step["outputs"].items():
            path = store.path / file
            if not path.is_file():
                yield Fault(file, "is missing", again)
            elif file_hash(path) != digest:
                yield Fault(file, f"is not what 'mipo {name}' wrote", f"put it back, or {again}")


def _stale(store: RunStore, steps: Mapping[str, Any]) -> Iterator[Fault]:
    """Results of a step whose input has changed since."""
    for file, (name, key) in READERS.items():
        path, step = store.path / file, steps.get(name)
        elsewhere = file == PAIRS and (saved_config(store.path) or {}).get("pairs")
        if step is None or not path.is_file() or key not in step["inputs"] or elsewhere:
            continue
        if step["inputs"][key] != file_hash(path):
            what = f"has changed since {', '.join(step['outputs'])} came of it"
            yield Fault(file, what, f"run 'mipo {name} {store.path}' again")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(each)


def _unreadable(store: RunStore) -> Iterator[Fault]:
    """Files that hold what cannot be used: numbers that are none, lines that are no JSON."""
    path = store.path / ADAPTER
    if path.is_file():
        try:
            loaded: Any = mx.load(str(path))
            arrays = dict(loaded)
        except (RuntimeError, ValueError):
            arrays = {}
        whole = bool(arrays) and all(mx.isfinite(array).all().item() for array in arrays.values())
        if not whole:
            yield Fault(
                ADAPTER,
                "cannot be read, or holds numbers that are not finite",
                f"run 'mipo train {store.path}' again",
            )
    for path in sorted(store.path.glob("*.json*")):
        if path.name == MANIFEST or path.name.endswith(ASIDE):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        try:
            rows = [json.loads(line) for line in lines if line]
        except ValueError:
            yield Fault(
                path.name, "holds lines that are no JSON", "the step that wrote it mends it"
            )
            continue
        if not all(math.isfinite(number) for number in _numbers(rows)):
            yield Fault(path.name, "holds numbers that are not finite", "look at what was trained")


def _around(store: RunStore) -> Iterator[Fault]:
    """Doors that are open, and what was left lying about."""
    if store.path.stat().st_mode & 0o077:
        yield Fault(".", "can be read by others", f"chmod 700 {store.path}")
    for path in sorted(store.path.rglob("*" + ASIDE)):
        count = path.read_bytes().count(b"\n")
        yield Fault(path.name, f"holds {count} lines that could not be used", "look, and delete it")


def check(run: Path) -> list[dict[str, Any]]:
    """Faults of a run directory as ``file``, ``what`` and ``hint``; none where all is well.

    Raises:
        ConfigError: no run stands there.
    """
    store = RunStore(run)
    if not (run / MANIFEST).is_file():
        raise ConfigError(
            f"{run}: no run (it has no {MANIFEST}).", "give the directory of a run that has begun"
        )
    steps = store.manifest()["steps"]
    found = [*_changed(store, steps), *_stale(store, steps), *_unreadable(store), *_around(store)]
    return [asdict(fault) for fault in found]
