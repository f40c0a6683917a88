"""Log-probs of given answers by each way that a model may be run, to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.sampling import prefill_of
from mipo_mlx.inference.scoring import score_tokens
from mipo_mlx.models.load import LanguageModel

Logprobs = list[np.ndarray]  # nats, fp32, [t] of each answer


def lazily(model: Any, rows: Sequence[Row]) -> list[mx.array]:
    """By the model's own ``__call__``, a sequence at a time, as mlx-lm generates: nats, [t] each.

    That is with its own caches, empty ones: Gemma 3n without any takes keys that were never
    trained. Nothing is evaluated, and gradients flow.
    """
    from mlx_lm.models.cache import make_prompt_cache

    found = []
    for row in rows:
        for answer in row.responses:
            tokens = mx.array([[*row.prompt_ids, *answer[:-1]]])
            logits = model(tokens, cache=make_prompt_cache(model))[:, len(row.prompt_ids) - 1 :]
            found.append(token_logprobs(logits, mx.array([list(answer)]))[0])
    return found


def plain(model: Any, rows: Sequence[Row]) -> Logprobs:
    """The values of ``lazily``."""
    return [np.array(values) for values in lazily(model, rows)]


def scored(lm: LanguageModel, rows: Sequence[Row], at_once: int) -> Logprobs:
    """As pairs are scored, at most ``at_once`` prompt tokens side by side."""
    found = score_tokens(lm, rows, max_batch_tokens=at_once)
    return [values for answers in found for values in answers]


def stepwise(lm: LanguageModel, rows: Sequence[Row]) -> Logprobs:
    """As answers are sampled, a token at a time.

    Half of the answers join after a first step, and answers leave as they end.
    """
    pairs = [(row.prompt_ids, answer) for row in rows for answer in row.responses]
    prefill = prefill_of(lm, [prompt for prompt, _ in pairs], ["it"] * len(pairs), Tally())
    found: list[list[float]] = [[] for _ in pairs]

    def step(stream: Any, live: Sequence[int]) -> list[int]:
        """Feed the next token of these answers; those that go on."""
        fed, wanted = [], []
        for index in live:
            prompt, answer = pairs[index]
            read = len(found[index])
            fed.append(answer[read - 1] if read else prompt[-1])
            wanted.append([answer[read]])
        logits = stream.step(mx.array(fed, dtype=mx.int32))
        values = token_logprobs(logits[:, None], mx.array(wanted))[:, 0]
        mx.eval(values, stream.state)
        for index, value in zip(live, np.array(values).tolist(), strict=True):
            found[index].append(value)
        going = [place for place, i in enumerate(live) if len(found[i]) < len(pairs[i][1])]
        if 0 < len(going) < len(live):
            stream.keep(going)
        return [live[place] for place in going]

    first = list(range(len(pairs) // 2))
    rest = list(range(len(first), len(pairs)))
    stream: Any = prefill.stream(first, 2)
    live = step(stream, first)
    later = prefill.stream(rest, 2)
    if live:
        stream.join(later)
    live = [*live, *rest]
    stream = stream if len(live) > len(rest) else later
    while live:
        live = step(stream, live)
    return [np.array(values, dtype=np.float32) for values in found]
