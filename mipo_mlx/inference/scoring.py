"""Log-probs of given responses, without gradients, every shared prefix forwarded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import (
    Forest,
    Row,
    alone,
    plant,
    sequence_logprobs,
    stems_of,
    token_logprobs,
)
from mipo_mlx.inference.prompt_cache import Held, hold_in_chunks
from mipo_mlx.models.load import LanguageModel

WINDOW = 512  # rows planned together; bounds how long the first result waits


def _size(row: Row) -> tuple[int, int]:
    return len(row.prompt_ids), max(map(len, row.responses))


def waves(rows: Sequence[Row], max_tokens: int) -> list[list[int]]:
    """Indices of rows whose stems are held together: whole groups, like lengths, bounded tokens."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group or f"\0{index}", []).append(index)
    ordered = sorted(groups.values(), key=lambda g: (_size(rows[g[0]]), g))
    made: list[list[int]] = []
    count = 0
    for group in ordered:
        width = max(len(rows[index].prompt_ids) for index in group)
        if made and (count + 1) * width <= max_tokens:
            made[-1] += group
            count += 1
        else:
            made.append(list(group))
            count = 1
    return made


def plan(rows: Sequence[Row], indices: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Batches of a wave: like lengths, at most ``max_tokens`` padded columns of responses.

    A row beyond the bound is a batch of its own.
    """
    made: list[list[int]] = []
    count, prompt, response = 0, 0, 0
    for index in sorted(indices, key=lambda i: (_size(rows[i]), i)):
        wide = max(prompt, len(rows[index].prompt_ids)), max(response, _size(rows[index])[1])
        more = count + len(rows[index].responses)
        if made and more * sum(wide) <= max_tokens:
            made[-1].append(index)
            count, (prompt, response) = more, wide
        else:
            made.append([index])
            count, (prompt, response) = len(rows[index].responses), _size(rows[index])
    return made


T_co = TypeVar("T_co", covariant=True)


class _Measure(Protocol[T_co]):
    """What is taken of a forest, an entry a response."""

    def __call__(
        self, model: object, forest: Forest, held: Held | None, *, budget: int
    ) -> Sequence[T_co]: ...


def _score_wave(
    lm: LanguageModel,
    rows: Sequence[Row],
    indices: Sequence[int],
    max_tokens: int,
    measure: _Measure[T_co],
) -> Iterator[tuple[int, tuple[T_co, ...]]]:
    mine = [rows[index] for index in indices]
    stems, owner = stems_of([row.prompt_ids for row in mine], [row.group for row in mine])
    held = hold_in_chunks(lm.model, stems, max_tokens) if lm.shares else None
    place = dict(zip(indices, owner, strict=True))
    budget = lm_head.BUDGET if lm.splits else 0
    for batch in plan(rows, indices, max_tokens):
        some = [rows[i] for i in batch]
        forest = plant(some, stems, [place[i] for i in batch]) if held else alone(some)
        values = iter(measure(lm.model, forest, held, budget=budget))
        for index in batch:
            yield index, tuple(next(values) for _ in rows[index].responses)


def _measured(
    lm: LanguageModel, rows: Sequence[Row], max_tokens: int, measure: _Measure[T_co]
) -> Iterator[tuple[T_co, ...]]:
    for row in rows:
        if not row.prompt_ids or not row.responses or not all(row.responses):
            raise ValueError("a prompt, at least one response, and no empty response are needed")
    was_training = lm.model.training
    lm.model.eval()
    try:
        for start in range(0, len(rows), WINDOW):
            window = rows[start : start + WINDOW]
            results: dict[int, tuple[T_co, ...]] = {}
            for wave in waves(window, max_tokens):
                results.update(_score_wave(lm, window, wave, max_tokens, measure))
            for index in range(len(window)):
                yield results[index]
    finally:
        lm.model.train(was_training)


def _sums(model: object, forest: Forest, held: Held | None, *, budget: int) -> Sequence[float]:
    summed: list[float] = sequence_logprobs(model, forest, held, budget=budget).tolist()  # type: ignore[assignment]
    return summed


def _by_token(
    model: object, forest: Forest, held: Held | None, *, budget: int
) -> Sequence[np.ndarray]:
    """Real tokens alone, an array a response."""
    table = np.array(token_logprobs(model, forest, held, budget=budget))
    # not the first columns of a row: in ``alone`` an answer stands behind its prompt
    return [row[real] for row, real in zip(table, np.array(forest.mask), strict=True)]


def score(
    lm: LanguageModel, rows: Sequence[Row], *, max_batch_tokens: int = 16_384
) -> Iterator[tuple[float, ...]]:
    """``log p(y|x)`` of every response, summed over its tokens, in nats; in the order of ``rows``.

    Batches depend on the rows alone. Yields one tuple a row, a float a response.

    Raises:
        ValueError: a row without prompt tokens or responses, or with an empty response.
    """
    return _measured(lm, rows, max_batch_tokens, _sums)


def score_tokens(
    lm: LanguageModel, rows: Sequence[Row], *, max_batch_tokens: int = 16_384
) -> Iterator[tuple[np.ndarray, ...]]:
    """``log p(y_t | x, y_<t)`` of every token, as ``score`` does their sums: an array a response.

    Raises:
        ValueError: as ``score``.
    """
    return _measured(lm, rows, max_batch_tokens, _by_token)
