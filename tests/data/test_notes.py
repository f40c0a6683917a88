"""Long notes in parts: what stands where, nothing lost, no part beyond the budget."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from mipo_mlx.data.chunking import Section, chunks, sections, split_notes
from mipo_mlx.types import Context


def words(text: str) -> int:
    """A tokenizer's stand-in whose counts add up."""
    return len(text.split())


NOTES = """Before any heading.

# Home

We live in Turin.

## Kitchen

The oven is slow.

```sh
# no heading, but a comment
## nor this
```

Setext
------

Another way to write one.

# Work

I mend clocks.
"""


def test_sections_stand_under_their_headings() -> None:
    assert sections(NOTES) == [
        Section((), "Before any heading."),
        Section(("# Home",), "We live in Turin."),
        Section(
            ("# Home", "## Kitchen"),
            "The oven is slow.\n\n```sh\n# no heading, but a comment\n## nor this\n```",
        ),
        Section(("# Home", "Setext\n------"), "Another way to write one."),
        Section(("# Work",), "I mend clocks."),
    ]


def test_parts_name_the_headings_that_they_stand_under() -> None:
    made = chunks(NOTES, 24, words)
    assert made[0] == "Before any heading.\n\n# Home\n\nWe live in Turin."
    assert made[1].startswith("# Home\n\n## Kitchen\n\nThe oven")
    assert made[2] == (
        "# Home\n\nSetext\n------\n\nAnother way to write one.\n\n# Work\n\nI mend clocks."
    )
    assert len(made) == 3


def test_what_fits_is_left_as_it_is() -> None:
    assert chunks(NOTES, 1000, words) == [NOTES]
    assert chunks(NOTES, 0, words) == [NOTES]
    user = Context("me", NOTES)
    assert split_notes(user, 1000, words) == [user]


@pytest.mark.parametrize("seed", range(8))
def test_every_word_is_kept_once_in_order_within_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    numbers = iter(range(10_000))
    lines = []
    for _ in range(60):
        kind = rng.choice(["#", "##", "###", "text", "text", "text", "long", ""])
        if kind.startswith("#"):
            lines += ["", f"{kind} title", ""]
        elif kind:
            count = rng.randrange(1, 150 if kind == "long" else 12)
            seam = rng.choice([" ", ". ", "\n"])
            lines.append(seam.join(f"w{next(numbers)}" for _ in range(count)) + ".")
        else:
            lines.append("")
    budget = rng.choice([16, 40, 100])
    parts = chunks("\n".join(lines), budget, words)
    assert all(words(part) <= budget for part in parts)
    found = [int(number) for part in parts for number in re.findall(r"w(\d+)", part)]
    assert found == list(range(next(numbers)))
    if len(parts) > 1:  # no two neighbours would have fitted together
        joined = [words(one) + words(two) for one, two in pairwise(parts)]
        assert sum(size <= budget // 2 for size in joined) == 0


def test_parts_are_one_users() -> None:
    made = split_notes(Context("me", NOTES, language="en", source="a.md:1"), 24, words)
    assert [part.id for part in made] == ["me#1", "me#2", "me#3"]
    assert {part.owner for part in made} == {"me"}
    assert {(part.language, part.source) for part in made} == {("en", "a.md:1")}


def test_a_single_word_beyond_the_budget_is_kept() -> None:
    def letters(text: str) -> int:
        return len(text)

    assert chunks("a " + "b" * 50 + " c", 10, letters) == ["a", "b" * 50, "c"]
    long = "# " + "heading " * 20 + "\n\nbody"
    assert max(map(words, chunks(long, 10, words))) <= 10
    assert " ".join(chunks(long, 10, words)).split() == long.split()
