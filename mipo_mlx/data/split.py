"""Train and held-out sides, by a hash of ids: the order of a file never matters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def split(items: Mapping[str, T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Train and held-out items; at least one on each side.

    Args:
        items: by id, at least two.
        share: held out, 0 to 1.
        seed: another seed, another split.
    """
    ranked = sorted(items, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    chosen = set(ranked[:count])
    train = [item for name, item in items.items() if name not in chosen]
    held = [item for name, item in items.items() if name in chosen]
    return train, held
