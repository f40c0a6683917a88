"""What was found out about models on this machine, kept in the user's cache directory.

A file a model, versions and device. Nothing of a user's texts is in it. Where the directory cannot
be read or written, everything is found out anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipo_mlx.run_dir.environment import here

PARTS = ("models", "inference", "training")  # of this package, whose code has a say


def directory() -> Path:
    """``$XDG_CACHE_HOME/mipo``, else the platform's place for caches."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "mipo"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "mipo"


@functools.cache
def _code() -> str:
    """sha256 over the modules that run models."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for part in PARTS for path in (root / part).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _key(about: Mapping[str, Any]) -> dict[str, Any]:
    machine = here()
    return {"device": machine["device"], "versions": machine["versions"], "code": _code(), **about}


def _path(key: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return directory() / f"paths-{name[:32]}.json"


def recall(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``remember`` was given for the same, on this device and with these versions."""
    key = _key(about)
    try:
        known = json.loads(_path(key).read_text(encoding="utf-8"))
        return dict(known["found"]) if known["key"] == json.loads(json.dumps(key)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(about: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Keep what was found, readable for this user alone; nothing happens where that fails."""
    key = _key(about)
    path = _path(key)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"key": key, "found": dict(found)}, file)
        os.replace(part, path)
    except OSError:
        return
