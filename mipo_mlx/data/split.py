"""Train and held-out sides, by a hash of ids: the order of a file never matters, and texts that are
alike go together.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def text_hash(text: str) -> str:
    """sha256 of a text but for case, white space and forms of the same characters (NFKC)."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(plain.encode()).hexdigest()


def alike(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For each name the first name that came with a like text, by ``text_hash``; ``(name, text)``.

    A name with several texts goes by its first.
    """
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for name, text in texts:
        if name not in found:
            found[name] = first.setdefault(text_hash(text), name)
    return found


def overlap(held: Sequence[str], trained: Iterable[str]) -> list[int]:
    """Places of held texts that are like one that was trained on."""
    known = {text_hash(text) for text in trained}
    return [place for place, text in enumerate(held) if text_hash(text) in known]


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
