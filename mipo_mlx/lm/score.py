"""Summed log-probs of given responses, batched by length, without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mipo_mlx.lm.load import LanguageModel
from mipo_mlx.lm.prefix import shared_logprobs

WINDOW = 512  # rows sorted together; bounds how long the first result waits


@dataclass(frozen=True)
class ScoreRow:
    """Responses to score under one prompt; none may be empty.

    Attributes:
        prompt_ids: at least one token.
        responses: token ids, end-of-turn token included where there is one.
    """

    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]


def _size(row: ScoreRow) -> tuple[int, int, int]:
    return len(row.responses), len(row.prompt_ids), max(map(len, row.responses))


def plan(rows: Sequence[ScoreRow], max_batch_tokens: int) -> list[list[int]]:
    """Indices of rows in batches: equal counts of responses, like lengths, bounded in tokens.

    A batch of ``p`` rows costs ``p * r * (prompt + response)`` padded tokens, as the forked cache
    does. A row beyond the bound is a batch of its own.
    """
    groups: list[list[int]] = []
    width = (0, 0, 0)
    for index in sorted(range(len(rows)), key=lambda i: _size(rows[i])):
        count, prompt, response = _size(rows[index])
        wide = (count, max(width[1], prompt), max(width[2], response))
        fits = bool(groups) and count == width[0]
        if fits and (len(groups[-1]) + 1) * count * (wide[1] + wide[2]) <= max_batch_tokens:
            groups[-1].append(index)
            width = wide
        else:
            groups.append([index])
            width = (count, prompt, response)
    return groups


def _score_batch(lm: LanguageModel, rows: Sequence[ScoreRow]) -> list[list[float]]:
    count, prompt, response = (max(sizes) for sizes in zip(*map(_size, rows), strict=True))
    prompts = np.zeros((len(rows), prompt), dtype=np.int32)
    targets = np.zeros((len(rows), count, response), dtype=np.int32)
    mask = np.zeros((len(rows), count, response), dtype=bool)
    for i, row in enumerate(rows):
        prompts[i, prompt - len(row.prompt_ids) :] = row.prompt_ids
        for j, ids in enumerate(row.responses):
            targets[i, j, : len(ids)] = ids
            mask[i, j, : len(ids)] = True
    lengths = mx.array([len(row.prompt_ids) for row in rows], dtype=mx.int32)
    logps = shared_logprobs(lm.model, mx.array(prompts), lengths, mx.array(targets), mx.array(mask))
    return [[float(value) for value in row] for row in np.array(logps)]


def score(
    lm: LanguageModel, rows: Sequence[ScoreRow], *, max_batch_tokens: int = 16_384
) -> Iterator[tuple[float, ...]]:
    """``log p(y|x)`` of every response, summed over its tokens, in nats; in the order of ``rows``.

    Batches depend on the rows alone. Yields one tuple a row, a float a response.

    Raises:
        ValueError: a row without prompt tokens or responses, or with an empty response.
    """
    for row in rows:
        if not row.prompt_ids or not row.responses or not all(row.responses):
            raise ValueError("a prompt, at least one response, and no empty response are needed")
    was_training = lm.model.training
    lm.model.eval()
    try:
        for start in range(0, len(rows), WINDOW):
            window = rows[start : start + WINDOW]
            results: dict[int, tuple[float, ...]] = {}
            for indices in plan(window, max_batch_tokens):
                values = _score_batch(lm, [window[index] for index in indices])
                results.update(zip(indices, map(tuple, values), strict=True))
            for index in range(len(window)):
                yield results[index]
    finally:
        lm.model.train(was_training)
