"""Answers as models write them, read as a person reads them; the tables were written by hand."""

from __future__ import annotations

import random
import time
from fractions import Fraction

import pytest

from mipo_mlx.grading.final_choice import final_choice
from mipo_mlx.grading.final_number import final_number, spell

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
    ("The answer is $2 \\times 10^3$.", "2000"),
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
    # as models wrote them
    (
        "To find the total, we add.\n\n## Step 1: Calculate\n16 - 3 - 4 = 9 eggs.\n\n"
        "## Step 2: Multiply\n9 * $2 = $18.\n\nThe final answer is: $\\boxed{18}$",
        "18",
    ),
    ("Janet makes $18 every day at the farmers' market.", "18"),
    ("So, Janet makes 9 * 2 = $<<9*2=18>>18 every day.", "18"),
    ("He ran a total of 540 meters a week.\n\n**540**", "540"),
    ("Therefore, the total cost is $1,200 + $300 = $1,500.", "1500"),
    ("The answer is $1,200 + $300 = $1,500.", "1500"),
    ("The answer is: $5$ hours and $30$ minutes", "5"),
    ("Thus, it takes **2 hours and 30 minutes**.", "2"),
    ("The profit was $70,000 (a 35% return).", "70000"),
    ("Answer: $70,000", "70000"),
    ("Answer: $$70000$$", "70000"),
    ("The final answer is 5/6 of a cup.", "5/6"),
    ("The answer is 2:1.", None),
    ("The answer is 3 (three).", "3"),
    ("The answer is three (3).", "3"),
    ("The answer is -$40.", "-40"),
    ("The answer is ($40).", "40"),
    ("The answer is x = -3.", "-3"),
    ("= -5", "-5"),
    ("So x = -5.", "-5"),
    ("10 - 15 = - 5", "-5"),
    ("The answer is 1,234,567.89.", "1234567.89"),
    ("Total: 12.", "12"),
    ("Total=12apples", "12"),
    ("She needs 2.5 cups. Final answer: 2.5 cups", "2.5"),
    ("The answer is 7:00 PM", None),
    ("Result: 45 cm^2", "45"),
    ("The answer is 45 m^3.", "45"),
    ("The answer is 45 cm\\(^2\\).", "45"),
    ("The area is $45 \\text{ cm}^2$.", "45"),
    ("Answer: 45 square meters (m2)", "45"),
    ("The answer is \\(\\frac{7}{2}\\).", "3.5"),
    ("The answer is 3\\frac{1}{2}.", "3.5"),
    ("The answer is -\\frac{1}{2}.", "-0.5"),
    ("\\boxed{-\\dfrac{1}{2}}", "-0.5"),
    ("\\boxed{1,000}", "1000"),
    ("\\boxed{50\\%}", "50"),
    ("\\boxed{\\$12.50}", "12.5"),
    ("\\boxed{\\textbf{12}}", "12"),
    ("\\boxed{2^3}", None),
    ("Final answer: 12\nConfidence: 95%", "12"),
    ("Answer: 12\nExplanation: 3 groups of 4.", "12"),
    ("The answer is 12. I hope this helps! Let me know if you have 1 more question.", "12"),
    ("The answer should be 12.", "12"),
    ("I get 12 as the answer.", "12"),
    ("12 is the answer.", "12"),
    ("Therefore 12 eggs.", "12"),
    ("Q: How many?\nA: 12", "12"),
    ("A: 12\n\nQ: Next has 5?\nA: 5", "12"),
    ("The answer isn't 12; the answer is 13.", "13"),
    ("The answer is 5 * 3 = 15 and 15 / 3 = 5 each. ", "5"),
    ("The answer is $0.75 or 75 cents.", None),
    ("Final answer: **$3,000**", "3000"),
    ("*Answer:* _12_", "12"),
    ("Answer:12", "12"),
    ("The answer is\n12", "12"),
    ("The answer is…12", "12"),
    ("the answer is approximately $3.33", "3.33"),
    ("The answer is no more than 5.", "5"),
    ("The answer is zero.", "0"),
    ("The answer is one hundred.", "100"),
    ("The answer is half, i.e. 0.5", "0.5"),
    ("There are 24 hours in a day, so it took 3 days.", "3"),
    ("Mary has 2 dozen = 24 eggs", "24"),
    ("$$\n\\begin{align}\n3x &= 12 \\\\\nx &= 4\n\\end{align}\n$$", "4"),
    ("Hence $x = 4$.", "4"),
    ("5 + 3 = 8 → 8 apples", "8"),
    ("The answer is 15.0", "15"),
    ("The answer is +15.", "15"),
    ("The answer is ~15.", "15"),
    ("The answer is > 15", "15"),
    ("I'm not sure, but the answer is 15.", "15"),
    ("I'm sorry for the confusion. 3 + 12 = 15.", "15"),
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
CELLS = (
    *(("A", "photosynthesis"), ("B", "respiration"), ("C", "cellular respiration")),
    ("D", "digestion"),
)
WRONGS = (
    *(("A", "Wrong, Wrong"), ("B", "Wrong, Not wrong"), ("C", "Not wrong, Wrong")),
    ("D", "Not wrong, Not wrong"),
)
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
    # as models wrote them
    (CELLS, "The answer is cellular respiration.", "C"),
    (CELLS, "The correct answer is **C. cellular respiration**", "C"),
    (CELLS, "Photosynthesis is done by plants, respiration by all. The correct answer is: A", "A"),
    (CELLS, "The answer is **A** photosynthesis.", "A"),
    (CELLS, "The process is called photosynthesis.", "A"),
    (CELLS, "C. cellular respiration", "C"),
    (CELLS, "C: cellular respiration", "C"),
    (CELLS, "C - cellular respiration", "C"),
    (CELLS, "C", "C"),
    (CELLS, "Let's think.\nA. no\nB. no\nC. yes\nD. no\nThe answer is: C.", "C"),
    (
        CELLS,
        "Let's analyze each option:\n\n**A. photosynthesis** - This is right.\n"
        "**B. respiration** - no.\n\nTherefore, the correct answer is **A. photosynthesis**.",
        "A",
    ),
    (CELLS, "So the answer would be B.", "B"),
    (CELLS, "The best answer is D, digestion.", "D"),
    (CELLS, "Best answer: D", "D"),
    (CELLS, "My answer: D", "D"),
    (CELLS, "I believe it's D.", "D"),
    (CELLS, "I think the answer is D", "D"),
    (CELLS, "It's D.", "D"),
    (CELLS, "d", "D"),
    (CELLS, "d.", "D"),
    (CELLS, "(d) digestion", "D"),
    (CELLS, "Option B", "B"),
    (CELLS, "option (b)", "B"),
    (CELLS, "B is correct because plants respire.", "B"),
    (CELLS, "B is not correct. The answer is C", "C"),
    (CELLS, "A. photosynthesis is incorrect, so the answer is B.", "B"),
    (CELLS, "The answer is: X", None),
    (CELLS, "The answer is: X, where X is C", "C"),
    (CELLS, "The answer is: A, B, C or D.", None),
    (CELLS, "The answer is either A or C.", None),
    (CELLS, "All of the above", None),
    (CELLS, "None of them.", None),
    (CELLS, "As an AI, I cannot answer.", None),
    (CELLS, "Answer: (A)", "A"),
    (CELLS, "Answer: [A]", "A"),
    (CELLS, "Answer: A)", "A"),
    (CELLS, "Answer: 'A'", "A"),
    (CELLS, "Answer:A", "A"),
    (CELLS, "ANSWER: A", "A"),
    (CELLS, 'The answer is: "A".', "A"),
    (CELLS, "The answer is option (A).", "A"),
    (CELLS, "The answer is letter A.", "A"),
    (CELLS, "The answer is: **A**\n\nThe other options, B, C, D, are wrong.", "A"),
    (CELLS, "The answer is A since B and C are wrong.", "A"),
    (CELLS, "The answer is A and not B.", "A"),
    (CELLS, "A and B are wrong, and D too. So C is right.", "C"),
    (CELLS, "A, B and D are wrong, so it's C.", "C"),
    (CELLS, "Therefore, the answer is (C).", "C"),
    (CELLS, "\\[ \\boxed{\\text{(B)}} \\]", "B"),
    (CELLS, "$\\text{B}$", "B"),
    (CELLS, "The answer is $B$.", "B"),
    (CELLS, "The answer is (C) because A is too small.", "C"),
    (WRONGS, "The answer is: Not wrong, Wrong", "C"),
    (WRONGS, "The answer is: Wrong, Not wrong.", "B"),
    (WRONGS, "C", "C"),
    (WRONGS, "The answer is B. Wrong, Not wrong", "B"),
    (DIGITS, "The answer is 1.", "1"),
    (DIGITS, "The answer is: 1) obtain energy", "1"),
    (DIGITS, "1. obtain energy", "1"),
    (DIGITS, "2", "2"),
    (DIGITS, "There are 2 reasons. The answer is 4.", "4"),
    (DIGITS, "Option 3 is correct.", "3"),
    (DIGITS, "The answer is option 3.", "3"),
    (DIGITS, "There are 2 atoms.", None),
    (DIGITS, "(4) rest", "4"),
    (DIGITS, "The answer is \\boxed{3}.", "3"),
    (DIGITS, "breed", "3"),
    (FIVE, "The answer is (E) none of these", "E"),
    (FIVE, "e", "E"),
    (FIVE, "E. none of these", "E"),
    (COUNTS, "The answer is 4", "D"),
    (COUNTS, "D. 4", "D"),
    (COUNTS, "There are 3 in all: 3", "C"),
    (COUNTS, "The answer is 3 atoms.", "C"),
    (COUNTS, "The answer is B, 2.", "B"),
    (THREE, "their weight increases", "B"),
    (THREE, "It increases, so B.", "B"),
    (KINDS, "The answer is a", "A"),
    (KINDS, "The answer is a gas", "A"),
    (KINDS, "The answer is a.", "A"),
    (KINDS, "The answer is A gas.", "A"),
    (KINDS, "the answer is not a liquid but a solid.", "C"),
    (KINDS, "The answer is neither A nor B.", None),
    (KINDS, "The answer is easily found: A solid keeps its form, C.", "C"),
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


def test_whatever_a_model_writes_is_read_at_once() -> None:
    """Noise made of what the parsers look for raises nothing and takes no time."""
    parts = (
        *("The answer is ", "answer: ", "#### ", "\\boxed{", "}", "\\frac{1}{", "**", "<think>"),
        *(
            "A",
            "B. ",
            "(C)",
            " or ",
            " and ",
            "not ",
            "1",
            ",000",
            "1/0",
            "-",
            "$",
            "%",
            ".",
            "=",
            "e9",
        ),
        *(
            "\n",
            " ",
            "a gas",
            "Wait, ",
            "Question: ",
            "twenty",
            " million",
            "\\",
            "_",
            "x 10^",
            "9" * 50,
        ),
    )
    rng = random.Random(0)
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 60))) for _ in range(300)]
    texts += [part * 400 for part in parts] + ["0." + "3" * 9000, "1e999999", "1e-999999"]
    began = time.process_time()
    for text in texts:
        for cut_off in (False, True):
            number = final_number(text, cut_off=cut_off)
            assert number is None or Fraction(spell(number)) == number
            assert final_choice(text, KINDS, cut_off=cut_off) in (None, *"ABCD")
    assert time.process_time() - began < 60
