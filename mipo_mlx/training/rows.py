"""Preference pairs as rows of token ids, checked against a model's window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mipo_mlx.config import RunConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import ConfigError
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.types import PreferencePair


def training_rows(
    lm: LanguageModel,
    pairs: Sequence[PreferencePair],
    config: RunConfig,
    path: Path,
    crossed: bool,
) -> list[TrainingRow]:
    """Token ids and reference log-probs of pairs, checked against the model's window.

    ``crossed`` is that of the objective; ``path`` is named in errors.
    """
    known: dict[str, tuple[int, ...]] = {}
    prompts: dict[tuple[str, str], tuple[int, ...]] = {}
    rows = []
    for pair in pairs:
        text = json.dumps([dict(message) for message in pair.messages])
        if text not in known:
            thinking = config.generate.enable_thinking
            ids = chat_template.prompt_ids(lm.tokenizer, pair.messages, enable_thinking=thinking)
            known[text] = tuple(ids)
        prompts[pair.context_id, pair.prompt_id or pair.id] = known[text]
    for pair in pairs:
        prompt = known[json.dumps([dict(message) for message in pair.messages])]
        sides = (pair.chosen.token_ids, pair.rejected.token_ids)
        other: tuple[int, ...] = ()
        if crossed:
            other = prompts.get(
                (pair.negative_context_id, pair.negative_prompt_id or pair.prompt_id), ()
            )
            other = () if other == prompt else other
        longest = max(len(prompt), len(other)) + max(map(len, sides))
        if lm.max_tokens is not None and longest > lm.max_tokens:
            raise ConfigError(
                f"{path}: pair {pair.id!r} takes {longest} tokens, more than the model's window "
                f"of {lm.max_tokens}.",
                "shorten it or leave it out",
            )
        reference = (float(pair.ref_chosen_logps or 0.0), float(pair.ref_rejected_logps or 0.0))
        encoded = EncodedPair(pair.id, prompt, sides, pair.context_id, pair.block)
        rows.append(TrainingRow(encoded, reference, other))
    return rows
