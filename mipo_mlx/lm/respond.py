"""Sample answers in batches. Every random number is keyed by (seed, job, token index), so an
answer's text depends neither on order nor on batch composition; only a near tie between two tokens,
closer than rounding, can fall either way.

Greedy decoding takes the most likely token. Not covered: penalties, stop strings, speculation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mipo_mlx.lm import chat
from mipo_mlx.lm.load import LanguageModel
from mipo_mlx.lm.prefix import GrowingCache, new_caches
from mipo_mlx.types import Response

PREFILL_TOKENS = 16_384  # most prompt tokens forwarded at once
RESERVE = 256  # cache columns allocated at a time


@dataclass(frozen=True)
class Job:
    """One answer to sample.

    Attributes:
        key: its name; with the seed it fixes every random number of the answer.
        prompt_ids: the prompt, at least one token.
    """

    key: str
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus, taken before temperature as mlx-lm does; 1 is off.
        max_tokens: most new tokens.
        seed: of every random number.
        batch_size: answers side by side.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    batch_size: int = 32


def job_key(seed: int, key: str) -> tuple[int, int]:
    """Two 32-bit words, the random key of a job's first token."""
    digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")


def nucleus(logprobs: mx.array, top_p: float) -> mx.array:
    """Keep the fewest likeliest tokens that hold ``top_p`` of the mass; the rest -inf. [b, v]"""
    ordered = mx.sort(logprobs, axis=-1)
    mass = mx.exp(ordered)
    above = mx.cumsum(mass, axis=-1, reverse=True, inclusive=False)
    dropped = (above >= top_p).sum(axis=-1, keepdims=True)
    dropped = mx.minimum(dropped, logprobs.shape[-1] - 1)
    return mx.where(logprobs < mx.take_along_axis(ordered, dropped, axis=-1), -mx.inf, logprobs)


def choose(logits: mx.array, keys: mx.array, index: int, sampling: Sampling) -> mx.array:
    """Next tokens [b] from logits [b, v]; row i draws with ``keys[i]`` ([b, 2]) and ``index``."""
    logits = logits.astype(mx.float32)
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    if sampling.top_p < 1:
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        logits = nucleus(logprobs, sampling.top_p)
    step = keys + mx.array([0, index], dtype=mx.uint32)
    size = (logits.shape[-1],)
    noise = mx.vmap(lambda key: mx.random.gumbel(size, key=key))(step)
    return mx.argmax(logits / sampling.temperature + noise, axis=-1)


def prefill(lm: LanguageModel, prompts: Sequence[tuple[int, ...]]) -> list[GrowingCache]:
    """Caches that hold all but the last token of each prompt, ready for answers."""
    lengths = np.array([len(ids) - 1 for ids in prompts], dtype=np.int32)
    padded = np.zeros((len(prompts), int(lengths.max())), dtype=np.int32)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids) - 1] = ids[:-1]
    caches = new_caches(lm.model, RESERVE)
    chunk = max(1, PREFILL_TOKENS // len(prompts))
    for start in range(0, padded.shape[1], chunk):
        lm.model(mx.array(padded[:, start : start + chunk]), cache=caches)  # logits are never read
        mx.eval([cache.state for cache in caches])
    return [cache.fork(mx.array(lengths)) for cache in caches]


def _batch(
    lm: LanguageModel, jobs: Sequence[Job], sampling: Sampling, ends: set[int]
) -> Iterator[tuple[str, Response]]:
    """Answer jobs side by side, one token a step; the next step is sent off before one is read."""
    caches = prefill(lm, [job.prompt_ids for job in jobs])
    keys = mx.array([job_key(sampling.seed, job.key) for job in jobs], dtype=mx.uint32)
    tokens = mx.array([job.prompt_ids[-1] for job in jobs], dtype=mx.int32)

    def step(tokens: mx.array, index: int) -> mx.array:
        logits = lm.model(tokens[:, None], cache=caches)[:, -1]
        chosen = choose(logits, keys, index, sampling)
        mx.async_eval(chosen, [cache.state for cache in caches])
        return chosen

    live = [(job, [0] * 0) for job in jobs]
    tokens = step(tokens, 0)
    for index in range(sampling.max_tokens):
        last = index + 1 == sampling.max_tokens
        ahead = tokens if last else step(tokens, index + 1)
        kept: list[int] = []
        for row, ((job, ids), token) in enumerate(zip(live, _read(tokens), strict=True)):
            ids.append(token)
            if token in ends or last:
                reason = "stop" if token in ends else "length"
                yield job.key, Response(chat.decode(lm.tokenizer, ids), tuple(ids), reason)
            else:
                kept.append(row)
        if not kept:
            return
        if len(kept) < len(live):
            live = [live[row] for row in kept]
            rows = mx.array(kept)
            ahead, keys = ahead[rows], keys[rows]
            for cache in caches:
                cache.keep(rows)
        tokens = ahead


def _read(tokens: mx.array) -> list[int]:
    return [int(token) for token in np.array(tokens)]


def respond(
    lm: LanguageModel, jobs: Sequence[Job], sampling: Sampling
) -> Iterator[tuple[str, Response]]:
    """Sample one answer a job; yields ``(key, response)`` as answers finish, in no fixed order.

    An answer that ends its turn keeps the end-of-turn token in ``token_ids``; one that reaches
    ``max_tokens`` is marked ``length``.

    Raises:
        ValueError: a prompt without tokens, or ``max_tokens`` or ``batch_size`` below 1.
    """
    if sampling.max_tokens < 1 or sampling.batch_size < 1:
        raise ValueError(f"max_tokens and batch_size must be at least 1, not {sampling}")
    if any(not job.prompt_ids for job in jobs):
        raise ValueError("every prompt must have at least one token")
    ends = chat.eos_ids(lm.tokenizer)
    ordered = sorted(jobs, key=lambda job: (len(job.prompt_ids), job.key))
    was_training = lm.model.training
    lm.model.eval()
    try:
        for start in range(0, len(ordered), sampling.batch_size):
            yield from _batch(lm, ordered[start : start + sampling.batch_size], sampling, ends)
    finally:
        lm.model.train(was_training)
