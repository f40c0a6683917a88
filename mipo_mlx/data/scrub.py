"""Strings that must not be taught: taken out of chosen answers with the sentence that states them.

A string counts as stated where it stands as whole words, whatever case, form of Unicode and kind of
space, apostrophe or hyphen; in scripts that join words (Chinese, Japanese, Korean, Thai and the
like) wherever it stands. Not covered: other spellings, translations, digits set apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mipo_mlx.data.files import lines
from mipo_mlx.data.pairs import plain
from mipo_mlx.errors import DataError
from mipo_mlx.grading.text import normalise, sentences
from mipo_mlx.types import PreferencePair

_JOINED = (  # Thai to Myanmar, Khmer, kana, Han, Hangul, and Han beyond the first plane
    "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)


@dataclass(frozen=True)
class Scrubbed:
    """Pairs to train on.

    Attributes:
        pairs: in their order; a changed answer has no token ids, and its pair no log-probs.
        changed: chosen answers that lost a sentence and are trained on.
        dropped: pairs left out, for nothing, or nothing else than the rejected answer, was left.
    """

    pairs: list[PreferencePair]
    changed: int
    dropped: int


def read_held(path: Path) -> list[str]:
    """Strings of a file, a line each, normalised; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, holds none, or a line holds no letter or digit.
    """
    found: dict[str, None] = {}
    for number, line in lines(path):
        text = normalise(line)
        if not any(map(str.isalnum, text)):
            raise DataError(
                f"{path}:{number}: holds no letter or digit.", "one string a line, such as a name"
            )
        found[text] = None
    if not found:
        raise DataError(f"{path}: holds no strings.", "one string a line that must not be taught")
    return list(found)


def pattern(held: Sequence[str]) -> re.Pattern[str]:
    """Matches normalised text that states one of the normalised strings."""
    letter = rf"[^\W_{_JOINED}]"  # an underscore is Markdown
    parts = [
        (rf"(?<!{letter})" if re.match(letter, text[0]) else "")
        + re.escape(text)
        + (rf"(?!{letter})" if re.match(letter, text[-1]) else "")
        for text in held
    ]
    return re.compile("|".join(parts) or r"(?!)")


def scrub(text: str, stated: re.Pattern[str]) -> str:
    """The text without the sentences that state a string; it then states none.

    A string that runs over several sentences takes all of them along.
    """
    if not stated.search(normalise(text)):
        return text
    left = sentences(text)
    width = 1
    while stated.search(normalise("".join(left))):
        at = next(
            (
                start
                for start in range(len(left) - width + 1)
                if stated.search(normalise("".join(left[start : start + width])))
            ),
            None,
        )
        if at is None:
            width += 1
        else:
            del left[at : at + width]
    return "".join(left).strip()


def scrub_pairs(pairs: Sequence[PreferencePair], held: Sequence[str]) -> Scrubbed:
    """Pairs whose chosen answers state none of the strings; rejected answers stay as they are.

    Args:
        pairs: token ids and log-probs of unchanged answers are kept.
        held: as ``read_held`` returns them.
    """
    stated = pattern(held)
    kept, changed, dropped = [], 0, 0
    for pair in pairs:
        text = scrub(pair.chosen.text, stated)
        if text == pair.chosen.text:
            kept.append(pair)
            continue
        chosen = replace(pair.chosen, text=text, token_ids=())
        made = replace(
            pair, chosen=chosen, ref_chosen_logps=None, ref_rejected_logps=None, pmi=None
        )
        if not text or plain(text) == plain(pair.rejected.text):
            dropped += 1
        else:
            kept.append(made)
            changed += 1
    return Scrubbed(kept, changed, dropped)
