"""Which language a text is in (py3langid), or none where that cannot be told."""

from __future__ import annotations

import functools
from typing import Any

FEWEST_LETTERS = 20
LEAST_CONFIDENCE = 0.7


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> str:
    """ISO 639 code, or "" for a text with fewer than 20 letters or of doubtful language."""
    if sum(character.isalpha() for character in text) < FEWEST_LETTERS:
        return ""
    code, confidence = _identifier().classify(text)
    return str(code) if confidence >= LEAST_CONFIDENCE else ""
