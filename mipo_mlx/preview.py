"""What ``mipo contexts`` shows: the users of some files and the tokens their texts take.

Nothing is written, and no text is shown. Only a tokenizer is opened, or downloaded, never weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mipo_mlx.data.hub import local_file
from mipo_mlx.data.read import read_contexts
from mipo_mlx.lm.load import load_tokenizer
from mipo_mlx.types import Context


def contexts(files: Sequence[str], *, model: str, offline: bool = False) -> dict[str, Any]:
    """Users in the order of the files, with tokens and characters of each, and the sums.

    Raises:
        DataError: a file cannot be used; the message names file, line and fault.
        ModelError: the model cannot be found or opened.
    """
    found: list[tuple[str, Context]] = [
        (name, user) for name in files for user in read_contexts(local_file(name, offline=offline))
    ]
    tokenizer, window = load_tokenizer(model, offline=offline)
    tokens = [len(tokenizer.encode(user.text, add_special_tokens=False)) for _, user in found]
    rows = [
        {
            "id": user.id,
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
        "users": len(rows),
        "different_texts": len({user.text for _, user in found}),
        "tokens": sum(tokens),
        "longest": max(tokens),
        "window": window,
        "beyond_window": sum(window is not None and count >= window for count in tokens),
    }
