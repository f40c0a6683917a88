"""Runs of words against hand values, brute force over all places, and the standard library."""

from __future__ import annotations

import difflib
import math
import random

import numpy as np
import pytest

from mipo_mlx.grading.ngrams import (
    copied_share,
    distinct,
    longest_copy,
    longest_repeat,
    repeated_share,
    similarity,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don\u2019t STOP, caf\u00e9!", ["don't", "stop", "caf\u00e9"]),
        ("cafe\u0301 \uff21\uff22\uff23", ["caf\u00e9", "abc"]),
        ("\u6211\u7231\u4f60\u3002OK \u597d", ["\u6211", "\u7231", "\u4f60", "ok", "\u597d"]),
        ("\u3059\u3057\u306f\u9b5a", ["\u3059", "\u3057", "\u306f", "\u9b5a"]),
        ("\ud55c\uad6d\uc5b4 \ub9d0", ["\ud55c\uad6d\uc5b4", "\ub9d0"]),  # Korean sets spaces
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01\u0e34", "\u0e19"]),  # a mark stays with its letter
        ("3.5 x-ray 'quoted' ", ["3", "5", "x", "ray", "quoted"]),
        ("STRASSE stra\u00dfe \u2121", ["strasse", "strasse", "tel"]),
        (" \n?!", []),
    ],
)
def test_words_of_several_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_repetition_by_hand() -> None:
    assert repeated_share("a b c d e") == 0
    assert repeated_share("a b c") == 0  # no 4-gram at all
    assert repeated_share("A b a B, a b a b") == pytest.approx(1 - 2 / 5)
    assert repeated_share("x x x x x x x x") == pytest.approx(1 - 1 / 5)
    assert repeated_share("a b a b", n=2) == pytest.approx(1 / 3)
    assert [longest_repeat(text) for text in ("", "a", "a b", "a a", "x x x x")] == [0, 0, 0, 1, 3]
    assert longest_repeat("the cat sat and The cat, sat") == 3


def test_copying_by_hand() -> None:
    source = "I live in Oslo and I play the violin."
    assert copied_share("You live in Oslo and I sing.", source) == pytest.approx(2 / 4)
    assert copied_share("I LIVE in oslo and i play", source) == 1
    assert copied_share("live in Oslo", source) == 0
    assert copied_share("", source) == copied_share("a b c d", "") == 0
    assert longest_copy("You live in Oslo and I sing.", source) == 5
    assert longest_copy("", source) == longest_copy("violin", "") == longest_copy("b", "a") == 0
    assert longest_copy("violin", source) == 1
    assert longest_copy("\u6211\u4f4f\u5728\u5317\u4eac", "\u4ed6\u4f4f\u5728\u5317\u65b9") == 3


def test_longest_runs_are_those_of_brute_force() -> None:
    rng = random.Random(4)
    for _ in range(60):
        one = [rng.choice("abc") for _ in range(rng.randrange(0, 25))]
        other = [rng.choice("abc") for _ in range(rng.randrange(0, 25))]
        match = difflib.SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
        assert longest_copy(" ".join(one), " ".join(other)) == match.size
        runs = [
            size
            for size in range(1, len(one))
            for i in range(len(one) - size)
            if any(one[i : i + size] == one[j : j + size] for j in range(i + 1, len(one)))
        ]
        assert longest_repeat(" ".join(one)) == max(runs, default=0)
        grams = [one[i : i + 4] for i in range(len(one) - 3)]
        again = [gram for i, gram in enumerate(grams) if gram in grams[:i]]
        assert repeated_share(" ".join(one)) == pytest.approx(len(again) / max(1, len(grams)))
        places = [j for j in range(len(other) - 3)]
        held = [gram for gram in grams if any(gram == other[j : j + 4] for j in places)]
        share = copied_share(" ".join(one), " ".join(other))
        assert share == pytest.approx(len(held) / max(1, len(grams)))


def test_distinct_by_hand() -> None:
    texts = ["a b a", "b c"]
    assert distinct(texts, 1) == pytest.approx(3 / 5)
    assert distinct(texts, 2) == pytest.approx(3 / 3)  # grams never span two texts
    assert distinct(["a b", "A, b"], 2) == pytest.approx(1 / 2)
    assert math.isnan(distinct(["a", ""], 2))


def test_similarity_is_the_cosine_of_counts() -> None:
    # "abab": aba, bab; "aba": aba; "xyz": none of them; "q" is shorter than a gram
    found = similarity(["abab", "aba", "XYZ", "q", "", "q"])
    expected = np.eye(6)
    expected[0, 1] = expected[1, 0] = 1 / math.sqrt(2)
    expected[3, 5] = expected[5, 3] = 1
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # counts, not sets: aaa three times and aab, aaa and aab
    assert similarity(["aaaaab", "aaab"])[0, 1] == pytest.approx(4 / math.sqrt(10 * 2))
