"""Train and held-out sides, by a hash of ids: the order of a file never matters, and texts that are
alike go together.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from mipo_mlx.errors import ConfigError
from mipo_mlx.types import PreferencePair

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


def _meeting(pairs: Sequence[PreferencePair]) -> dict[str, str]:
    """By id of a context, one that stands for all whom its answers meet, directly or not."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for pair in pairs:
        find(pair.context_id)
        if pair.negative_context_id:
            leader[find(pair.negative_context_id)] = find(pair.context_id)
    return {name: find(name) for name in leader}


def held_pairs(pairs: Sequence[PreferencePair], share: float, seed: int) -> list[bool]:
    """Which pairs validate instead of train.

    Those of other users; where they can be, of whole circles of users who meet, so that no answer
    of theirs is rejected in training and no block is torn. With one user, of other prompts.

    Raises:
        ConfigError: all pairs are of one user and one prompt.
    """
    users = [pair.context_id for pair in pairs]
    circle = _meeting(pairs)
    names = [circle[user] for user in users]
    if len(set(names)) < 2:
        names = users if len(set(users)) > 1 else [pair.prompt_id or pair.id for pair in pairs]
    if len(set(names)) < 2:
        raise ConfigError(
            "--validation needs pairs of at least two users or prompts.", "leave it out"
        )
    held = set(split({name: name for name in names}, share, seed)[1])
    return [name in held for name in names]
