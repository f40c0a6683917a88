"""Preference pairs as rows of ``pairs.jsonl``, and the filters before training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from mipo_mlx.data.language import language_of
from mipo_mlx.grading.text import declines
from mipo_mlx.types import PreferencePair, Response


def pair_row(pair: PreferencePair) -> dict[str, Any]:
    """A pair in TRL's conversational form plus our fields; ``read_pairs`` gives the pair back."""
    row: dict[str, Any] = {"id": pair.id, "prompt": [dict(m) for m in pair.messages]}
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[side] = [{"role": "assistant", "content": response.text}]
    for name in ("context_id", "prompt_id", "negative_context_id", "negative_prompt_id", "block"):
        row[name] = getattr(pair, name)
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[f"{side}_token_ids"] = list(response.token_ids)
        row[f"{side}_finish_reason"] = response.finish_reason
        row[f"{side}_length"] = len(response.token_ids)
    for name in ("ref_chosen_logps", "ref_rejected_logps", "pmi"):
        value = getattr(pair, name)
        row[name] = None if value is None else round(value, 6)
    return row


ANSWER_REASONS = ("empty", "cut_off", "thinking", "refusal", "language")


def plain(text: str) -> str:
    """Words alone, in one case: answers that differ in nothing else are as good as equal."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def drop_reason(
    prompt: str, answer: Response, *, same_language: bool = False, drop_truncated: bool = False
) -> str:
    """Why an answer cannot be trained on, one of ``ANSWER_REASONS``, or nothing.

    ``thinking``: a block of thoughts that has no end or no start. ``refusal``: an answer that
    starts as English refusals do. ``language``: another one than the prompt's, where both can be
    told.
    """
    text = answer.text.strip()
    if drop_truncated and answer.finish_reason == "length":
        return "cut_off"
    if ("<think>" in text) != ("</think>" in text):
        return "thinking"
    if not text:
        return "empty"
    if declines(answer.text):
        return "refusal"
    asked = language_of(prompt) if same_language else ""
    return "language" if asked and language_of(answer.text) not in ("", asked) else ""


def _tokens(pair: PreferencePair) -> tuple[int, int]:
    return len(pair.chosen.token_ids), len(pair.rejected.token_ids)


def filter_scored(
    pairs: Sequence[PreferencePair], *, min_pmi: float | None, length_ratio: float
) -> tuple[list[PreferencePair], dict[str, int]]:
    """Pairs within the limits, and counts of the others by reason.

    Args:
        pairs: with ``pmi`` where ``min_pmi`` is given.
        min_pmi: least PMI in nats; None is off.
        length_ratio: most tokens of the longer answer over the shorter's; 0 is off.
    """
    kept, counts = [], {"length": 0, "pmi": 0}
    for pair in pairs:
        if length_ratio and max(_tokens(pair)) > length_ratio * min(_tokens(pair)):
            counts["length"] += 1
        elif min_pmi is not None and pair.pmi is not None and pair.pmi < min_pmi:
            counts["pmi"] += 1
        else:
            kept.append(pair)
    return kept, counts


def match_lengths(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Drop the fewest pairs so that chosen and rejected answers have equally many tokens in all.

    Pairs with the largest difference on the longer side go first; the order is kept.
    """
    differences = [chosen - rejected for chosen, rejected in map(_tokens, pairs)]
    excess = sum(differences)
    sign = 1 if excess > 0 else -1
    dropped = set()
    for index in sorted(range(len(pairs)), key=lambda i: (-sign * differences[i], i)):
        if sign * differences[index] <= 0 or sign * excess < sign * differences[index]:
            break
        excess -= differences[index]
        dropped.add(index)
    return [pair for index, pair in enumerate(pairs) if index not in dropped]


def pmi_summary(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Quantiles of the pairs' PMI in nats, and the share above log 2; empty without PMI.

    ``context_used``: on this share of pairs the reference already finds the chosen answer at least
    twice as likely under its own context, so there is less to learn there.
    """
    values = sorted(pair.pmi for pair in pairs if pair.pmi is not None)
    if not values:
        return {}
    cuts = [(round(q * (len(values) - 1)), f"p{round(100 * q)}") for q in (0.1, 0.5, 0.9)]
    used = sum(value > math.log(2) for value in values) / len(values)
    return {
        **{name: round(values[index], 3) for index, name in cuts},
        "mean": round(sum(values) / len(values), 3),
        "context_used": round(used, 3),
        "pairs": len(values),
    }


def length_summary(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Mean tokens of chosen and rejected answers, and their ratio."""
    chosen = sum(len(pair.chosen.token_ids) for pair in pairs) / len(pairs)
    rejected = sum(len(pair.rejected.token_ids) for pair in pairs) / len(pairs)
    return {
        "chosen_tokens": round(chosen, 3),
        "rejected_tokens": round(rejected, 3),
        "ratio": round(chosen / rejected, 4) if rejected else 0.0,
    }
