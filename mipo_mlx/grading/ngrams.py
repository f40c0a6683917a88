"""Runs of words in answers: how much repeats, how much is copied, how much differs.

Words are what ``words`` makes of a text; an n-gram is a run of n of them.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import regex

from mipo_mlx.grading.text import normalise

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
LETTERS = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{SPACELESS}]]"
WORD = regex.compile(rf"[{SPACELESS}]\p{{M}}*|{LETTERS}+(?:'{LETTERS}+)*", regex.V1)


def words(text: str) -> list[str]:
    """Words without case and punctuation; of scripts that set no spaces, each character is one.

    These scripts are Chinese characters, Hiragana, Katakana, Thai, Lao, Khmer and Burmese; marks
    stay with their letter.
    """
    return list(WORD.findall(normalise(text)))


def ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of ``n`` neighbours, in order; none where there are fewer."""
    return (tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def repeated_share(text: str, n: int = 4) -> float:
    """seq-rep-n, ``1 - distinct n-grams / n-grams`` (Welleck et al. 2020, arXiv 1908.04319).

    0 for a text of fewer than ``n`` words.
    """
    grams = list(ngrams(words(text), n))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def longest_repeat(text: str) -> int:
    """Words of the longest run that stands in the text twice; both places may overlap."""
    tokens = words(text)

    def repeats(size: int) -> bool:
        grams = list(ngrams(tokens, size))
        return len(set(grams)) < len(grams)

    return _longest(len(tokens) - 1, repeats)


def copied_share(text: str, source: str, n: int = 4) -> float:
    """Share of the text's n-grams that stand in ``source``; 0 for one of fewer than n words."""
    grams = list(ngrams(words(text), n))
    known = set(ngrams(words(source), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def longest_copy(text: str, source: str) -> int:
    """Words of the longest run that stands in both texts."""
    mine, theirs = words(text), words(source)

    def common(size: int) -> bool:
        return not set(ngrams(mine, size)).isdisjoint(ngrams(theirs, size))

    return _longest(min(len(mine), len(theirs)), common)


def _longest(most: int, holds: Callable[[int], bool]) -> int:
    """The greatest size up to ``most`` that ``holds``, where all smaller ones then hold; or 0."""
    sizes = range(1, max(0, most) + 1)
    return bisect.bisect_left(sizes, True, key=lambda size: not holds(size))


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n, distinct n-grams over all of several texts (Li et al. 2016, arXiv 1510.03055).

    The paper divides by words; by n-grams, as has become common, n texts of one word each do not
    count as less diverse. nan where there are no n-grams.
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def similarity(texts: Sequence[str], n: int = 3) -> np.ndarray:
    """Cosine of the counts of character n-grams of every two texts [t, t], 1 on the diagonal.

    A text shorter than ``n`` is one gram by itself.
    """
    counts = []
    for text in map(normalise, texts):
        grams = [text[at : at + n] for at in range(len(text) - n + 1)] or [text]
        counts.append(Counter(grams))
    place = {gram: at for at, gram in enumerate(dict.fromkeys(g for c in counts for g in c))}
    table = np.zeros((len(counts), len(place)))
    for row, count in zip(table, counts, strict=True):
        row[[place[gram] for gram in count]] = list(count.values())
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    return table @ table.T
