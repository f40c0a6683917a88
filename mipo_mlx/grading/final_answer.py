"""The final answer to a prompt with a known one, and whether it is right."""

from __future__ import annotations

import re

from mipo_mlx.grading.final_choice import final_choice
from mipo_mlx.grading.final_number import final_number, spell
from mipo_mlx.types import Prompt, Response


def offered(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """Label and text of each choice; those of one's own prompts are lines such as "A. a gas"."""
    if prompt.choices:
        return prompt.choices
    lines = re.findall(r"^\(?([A-E1-5])[).:]\s*(.*)$", prompt.text, re.MULTILINE)
    return tuple((label, text.strip()) for label, text in lines)


def final_answer(prompt: Prompt, response: Response) -> str | None:
    """The number or label that an answer comes to, in ``Prompt.answer``'s spelling, or None."""
    cut_off = response.finish_reason == "length"
    if prompt.kind == "choice":
        return final_choice(response.text, offered(prompt), cut_off=cut_off)
    number = final_number(response.text, cut_off=cut_off)
    return None if number is None else spell(number)


def is_right(prompt: Prompt, said: str | None) -> bool:
    """Whether a final answer is the gold one; numbers by value."""
    if said is None or prompt.answer is None:
        return False
    if prompt.kind == "number":
        gold = final_number(f"#### {prompt.answer}")
        return gold is not None and said == spell(gold)
    return said == prompt.answer.strip()
