"""Preference pairs as rows of ``pairs.jsonl``, and the filters before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mipo_mlx.types import PreferencePair


def pair_row(pair: PreferencePair) -> dict[str, Any]:
    """A pair in TRL's conversational form plus our fields; ``read_pairs`` gives the pair back."""
    row: dict[str, Any] = {"id": pair.id, "prompt": [dict(m) for m in pair.messages]}
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[side] = [{"role": "assistant", "content": response.text}]
    for name in ("context_id", "prompt_id", "negative_context_id", "negative_prompt_id"):
        row[name] = getattr(pair, name)
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[f"{side}_token_ids"] = list(response.token_ids)
        row[f"{side}_finish_reason"] = response.finish_reason
        row[f"{side}_length"] = len(response.token_ids)
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        value = getattr(pair, name)
        row[name] = None if value is None else round(value, 6)
    return row


def drop_reason(pair: PreferencePair) -> str:
    """Why a pair cannot be trained on: ``cut_off``, ``empty``, ``equal``, or nothing."""
    sides = (pair.chosen, pair.rejected)
    if any(side.finish_reason == "length" for side in sides):
        return "cut_off"
    if not all(side.text.strip() for side in sides):
        return "empty"
    if pair.chosen.text.strip() == pair.rejected.text.strip():
        return "equal"
    return ""


def filter_pairs(
    pairs: Sequence[PreferencePair],
) -> tuple[list[PreferencePair], dict[str, int]]:
    """Pairs worth training on, and counts of the others by reason."""
    counts = {"equal": 0, "empty": 0, "cut_off": 0}
    kept = []
    for pair in pairs:
        reason = drop_reason(pair)
        if reason:
            counts[reason] += 1
        else:
            kept.append(pair)
    return kept, counts


def length_summary(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Mean tokens of chosen and rejected answers, and their ratio."""
    chosen = sum(len(pair.chosen.token_ids) for pair in pairs) / len(pairs)
    rejected = sum(len(pair.rejected.token_ids) for pair in pairs) / len(pairs)
    return {
        "chosen_tokens": round(chosen, 3),
        "rejected_tokens": round(rejected, 3),
        "ratio": round(chosen / rejected, 4) if rejected else 0.0,
    }
