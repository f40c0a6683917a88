"""Answers as models write them, read as a person reads them; the tables were written by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from mipo_mlx.data.final_choices import final_choice
from mipo_mlx.data.final_numbers import final_number, spell

NUMBERS = [
    # the forms that are asked for
    ("He has 3 + 4 = 7.\n#### 7", "7"),
    ("so 4\n#### 1,234", "1234"),
    ("#### -3", "-3"),
    ("#### $12", "12"),
    ("#### -$1,250.50", "-1250.5"),
    ("#### $-5", "-5"),
    ("#### 2 no\n#### 7", "7"),
    ("The answer is: 42", "42"),
    ("The answer is: 42.", "42"),
    ("The answer is 1,080.", "1080"),
    ("The answer is $1,080.00.", "1080"),
    ("Answer: 15", "15"),
    ("**Final Answer:** 15", "15"),
    ("### Final Answer\n\n15 apples", "15"),
    ("Therefore, the final answer is \\boxed{18}.", "18"),
    ("\\[\n\\boxed{\\$1{,}200}\n\\]", "1200"),
    ("So we get $\\boxed{\\frac{3}{4}}$.", "0.75"),
    ("$$\\boxed{-12\\text{ degrees}}$$", "-12"),
    ("\\boxed{x = 5}", "5"),
    ("The total is **$64**.", "64"),
    # units, currency, percent, fractions, scales
    ("The answer is 25%.", "25"),
    ("The answer is 0.5 miles.", "0.5"),
    ("The answer is 1/2.", "0.5"),
    ("The answer is 3 1/2 hours.", "3.5"),
    ("The answer is €12.", "12"),
    ("The answer is 5kg.", "5"),
    ("The answer is .75", "0.75"),
    ("The answer is 1.2 million dollars.", "1200000"),
    ("The answer is $2 × 10^3$.", "2000"),
    ("The answer is 1e3.", "1000"),
    ("The answer is twelve.", "12"),
    ("The answer is twenty-five.", "25"),
    # signs
    ("The temperature fell: 5 - 12 = -7. The answer is -7 degrees.", "-7"),
    ("The answer is \N{MINUS SIGN}7.", "-7"),
    ("The answer is negative 7.", "-7"),
    ("The difference is 10-5", "5"),  # a dash between numbers is no sign
    ("He paid 20 - 5 = 15", "15"),
    # what stands around the number
    ("The answer is 5 apples for each of the 3 friends.", "5"),
    ("The answer is that each of the 3 friends gets 12 apples.", "12"),
    ("The answer is 3 + 4 = 7.", "7"),
    ("The answer is 7 (since 3 + 4 = 7 and 2 are left).", "7"),
    ("The answer is 5, not 6.", "5"),
    ("The answer is about 33.33.", "33.33"),
    ("The answer is approx. 8.", "8"),
    ("The answer to the question is 9.", "9"),
    ("The answer is:\n\n**1,200**", "1200"),
    # the last statement wins
    ("The answer is 5. Let me check again. The answer is 6.", "6"),
    ("The answer is 7. Wait, that is wrong: 2 * 4 = 8.", "8"),
    ("The answer is 7. That took 3 minutes.", "7"),
    ("The answer is not 5. The answer is 6.", "6"),
    ("\\boxed{3} was the first part.\n\n\\boxed{9}", "9"),
    ("The answer is 6.\n\nNew question: Ann has 99 pens.\nAnswer: The answer is 99.", "6"),
    ("<think>The answer is 3.</think>The answer is 4.", "4"),
    # no statement
    ("Tom has 3 + 4 = 7 apples.", "7"),
    ("1. He buys 3.\n2. He eats 1.\n3. He keeps two, so 2.", "2"),
    ("First 12.\nIn the end she has **15** apples after 3 days.", "15"),
    ("It costs 5 dollars. That is the total of all.", "5"),
    ("On the 3rd day he has 20 left, on the 4th", "20"),
    ("#### Step 1: Add\n3 + 4 = 7\n#### Step 2: Double\n7 * 2 = 14", "14"),
    ("72", "72"),
    # nothing to read
    ("I'm sorry, I cannot answer that about the 3 friends.", None),
    ("There is not enough information about the 5 cars.", None),
    ("The answer is 5 or 6.", None),
    ("The answer is 5-7.", None),
    ("The answer is 3 + 4.", None),
    ("####", None),
    ("", None),
    ("<think>3 and 4 make 7, so the answer is 7", None),
    ("No number here.", None),
]

KINDS = (("A", "a gas"), ("B", "a liquid"), ("C", "a solid"), ("D", "plasma"))
DIGITS = (("1", "obtain energy"), ("2", "escape 3 predators"), ("3", "breed"), ("4", "rest"))
FIVE = (*KINDS, ("E", "none of these"))
THREE = (("A", "decreases"), ("B", "increases"), ("C", "remains the same"))
COUNTS = (("A", "1"), ("B", "2"), ("C", "3"), ("D", "4"))
MOON = (("A", "A full moon"), ("B", "A waning moon"), ("C", "A new moon"))
UNKNOWN = (("A", "12 kg"), ("B", "It cannot be determined"))

LETTERS = [
    (KINDS, "The answer is: C", "C"),
    (KINDS, "the answer is (b).", "B"),
    (KINDS, "The answer is **D**.", "D"),
    (KINDS, "The answer is \\boxed{B}", "B"),
    (KINDS, "\\boxed{\\text{C}}", "C"),
    (KINDS, "$\\boxed{C}$", "C"),
    (KINDS, "The correct answer is option C, because it is rigid.", "C"),
    (KINDS, "Answer: B) a liquid", "B"),
    (KINDS, "**Answer:**\n\nB", "B"),
    (KINDS, "#### D", "D"),
    (KINDS, "C", "C"),
    (KINDS, "(c)", "C"),
    (KINDS, "C. a solid\nIt keeps its form.", "C"),
    (KINDS, "A. is wrong.\nB. is wrong.\nC. is right.\n\nC", "C"),
    (KINDS, "C because it keeps its form.", "C"),
    (KINDS, "I would choose B.", "B"),
    (KINDS, "Option D is correct.", "D"),
    (KINDS, "A is incorrect. B is the best answer.", "B"),
    (KINDS, "The answer is: A. No, the answer is: D", "D"),
    (KINDS, "The answer is B. Wait, actually it is C.", "C"),
    (KINDS, "The answer is not A. The answer is B.", "B"),
    (KINDS, "The answer is B, not A.", "B"),
    (KINDS, "The answer is B rather than (A).", "B"),
    (KINDS, "The answer is a solid.", "C"),
    (KINDS, "The answer is plasma", "D"),
    (KINDS, "It must be plasma.", "D"),
    (KINDS, "Therefore, C.", "C"),
    (KINDS, "A gas fills its room, so it is (A).", "A"),
    (KINDS, "<think>The answer is A.</think>\nThe answer is C.", "C"),
    (KINDS, "The answer is: C\n\nQuestion: What is ice?\nThe answer is: B", "C"),
    (MOON, "The answer is A new moon.", "C"),
    (MOON, "A new moon", "C"),
    (UNKNOWN, "The answer is: it cannot be determined.", "B"),
    (DIGITS, "The answer is: 3", "3"),
    (DIGITS, "The answer is (2) escape 3 predators", "2"),
    (DIGITS, "The answer is escape 3 predators.", "2"),
    (DIGITS, "3", "3"),
    (DIGITS, "Answer: 4.", "4"),
    (FIVE, "The answer is E", "E"),
    (FIVE, "None of these.", "E"),
    (THREE, "The answer is: remains the same.", "C"),
    (COUNTS, "The answer is 3.", "C"),  # the text of C
    (COUNTS, "The answer is: B", "B"),
    # none
    (KINDS, "The answer is E", None),
    (THREE, "The answer is D.", None),
    (DIGITS, "The answer is C.", None),
    (DIGITS, "The answer is 5.", None),
    (DIGITS, "The answer is 25.", None),
    (KINDS, "The answer is A or B.", None),
    (KINDS, "The answer is A and C.", None),
    (KINDS, "Both (A) and (B).", None),
    (KINDS, "The answer is: Apple", None),
    (KINDS, "I cannot tell.", None),
    (KINDS, "I don't know, there are a gas and a liquid.", None),
    (KINDS, "Vitamin C helps.", None),
    (KINDS, "", None),
]


@pytest.mark.parametrize(("text", "wanted"), NUMBERS)
def test_numbers(text: str, wanted: str | None) -> None:
    found = final_number(text)
    assert found == (None if wanted is None else Fraction(wanted))


@pytest.mark.parametrize(("choices", "text", "wanted"), LETTERS)
def test_choices(choices: tuple[tuple[str, str], ...], text: str, wanted: str | None) -> None:
    assert final_choice(text, choices) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("He has 3 + 4 = 1", None),
        ("The answer is 12", None),
        ("The answer is 12.", None),  # may go on as 12.50
        ("The answer is \\boxed{12}", 12),
        ("The answer is 12.\n\nNow let me", 12),
        ("The answer is 12. Let me check: 3 + 9", 12),
    ],
)
def test_a_number_that_was_cut_off_counts_only_when_whole(text: str, wanted: int | None) -> None:
    assert final_number(text, cut_off=True) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Let us see. (A) is a gas, so", None),
        ("The answer is: C", None),
        ("The answer is: C. It keeps its", "C"),
        ("\\boxed{C}", "C"),
    ],
)
def test_a_choice_that_was_cut_off_counts_only_when_whole(text: str, wanted: str | None) -> None:
    assert final_choice(text, KINDS, cut_off=True) == wanted


def test_numbers_are_equal_exactly() -> None:
    assert final_number("The answer is 0.50") == final_number("#### 1/2") == Fraction(1, 2)
    assert final_number("The answer is 0.33") != final_number("The answer is 1/3")
    assert [spell(Fraction(text)) for text in ("-3", "1/2", "-1/40", "1/3", "1000000")] == [
        *("-3", "0.5", "-0.025", "1/3", "1000000"),
    ]
