"""What ``mipo contexts`` shows: the users of some files and the tokens their texts take.

Nothing is written, and no text is shown. Only a tokenizer is opened, or downloaded, never weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mipo_mlx.data.hub import local_file
from mipo_mlx.data.readers import read_contexts
from mipo_mlx.generation.inputs import in_parts
from mipo_mlx.models.load import load_tokenizer
from mipo_mlx.types import Context


def contexts(
    files: Sequence[str], *, model: str, offline: bool = False, note_tokens: int = 0
) -> dict[str, Any]:
    """Contexts in the order of the files, with tokens and characters of each, and the sums.

    Long notes of a single user are shown in parts of at most ``note_tokens`` (0: whole).

    Raises:
        DataError: a file cannot be used; the message names file, line and fault.
        ModelError: the model cannot be found or opened.
    """
    read = [(name, read_contexts(local_file(name, offline=offline))) for name in files]
    tokenizer, window = load_tokenizer(model, offline=offline)
    found: list[tuple[str, Context]] = [
        (name, user) for name, users in read for user in in_parts(users, note_tokens, tokenizer)
    ]
    tokens = [len(tokenizer.encode(user.text, add_special_tokens=False)) for _, user in found]
    rows = [
        {
            "id": user.id,
            "user": user.owner,
            "file": name,
            "tokens": count,
            "characters": len(user.text),
            "facts": len(user.facts),
            "language": user.language,
        }
        for count, (name, user) in zip(tokens, found, strict=True)
    ]
    return {
        "contexts": rows,
        "users": len({row["user"] for row in rows}),
        "different_texts": len({user.text for _, user in found}),
        "tokens": sum(tokens),
        "longest": max(tokens),
        "window": window,
        "beyond_window": sum(window is not None and count >= window for count in tokens),
    }
