"""Sample answers in batches. Every random number is keyed by (seed, job, token index), so an
answer's text depends neither on order nor on batch composition; only a near tie between two tokens,
closer than rounding, can fall either way.

Greedy decoding takes the most likely token. Not covered: penalties, stop strings, speculation.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.inference.own_caches import OwnPrefill
from mipo_mlx.inference.prefill import Prefill, Tally
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import Response

RESERVE = 256  # most cache columns allocated at a time
REFILL_AT = 0.75  # share of rows left over at which waiting answers join


def most_rows() -> int:
    """Answers side by side when memory sets no lower bound; on a CPU more of them save little."""
    return 32 if mx.default_device() == mx.Device(mx.cpu) else 64


@dataclass(frozen=True)
class Job:
    """One answer to sample.

    Attributes:
        key: its name; with the seed it fixes every random number of the answer.
        prompt_ids: the prompt, at least one token.
        group: prompts of one group share the tokens that all of them start with; "" shares none.
        without_ids: the prompt without its context, for ``Sampling.contrast``.
    """

    key: str
    prompt_ids: tuple[int, ...]
    group: str = ""
    without_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How to sample, in mlx-lm's order: nucleus, min-p, then temperature over what is left.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus; 1 is off.
        min_p: tokens less likely than this share of the likeliest are left out; 0 is off.
        max_tokens: most new tokens.
        seed: of every random number.
        batch_size: answers side by side; 0 takes what fits.
        memory_limit: bytes for keys and values when ``batch_size`` is 0; 0 is no limit.
        contrast: a of context-aware decoding; 0 is off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    batch_size: int = 0
    memory_limit: int = 0
    contrast: float = 0.0


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


def at_least(logits: mx.array, min_p: float) -> mx.array:
    """Keep tokens whose probability is at least ``min_p`` times the likeliest's; the rest -inf.

    Nguyen et al. 2024, arXiv 2407.01082. The likeliest stays whatever came before. [b, v]
    """
    least = mx.max(logits, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logits < least, -mx.inf, logits)


def context_aware(logits: mx.array, without: mx.array, a: float) -> mx.array:
    """Logits of ``p(y|x,c)^(1+a) / p(y|x)^a``, not normalised (Shi et al. 2023, eq. 3). [b, v]

    Args:
        logits: with the context [b, v].
        without: without it [b, v].
        a: at least 0; 0 is the model with its context.
    """
    return (1 + a) * logits.astype(mx.float32) - a * without.astype(mx.float32)


def choose(logits: mx.array, keys: mx.array, index: mx.array, sampling: Sampling) -> mx.array:
    """Next tokens [b] from logits [b, v]; row i draws with ``keys[i]`` [2] and ``index[i]``."""
    logits = logits.astype(mx.float32)
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    if sampling.top_p < 1:
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        logits = nucleus(logprobs, sampling.top_p)
    if sampling.min_p > 0:
        logits = at_least(logits, sampling.min_p)
    step = mx.stack([keys[:, 0], keys[:, 1] + index], axis=1)
    size = (logits.shape[-1],)
    noise = mx.vmap(lambda key: mx.random.gumbel(size, key=key))(step)
    return mx.argmax(logits / sampling.temperature + noise, axis=-1)


@dataclass
class _Live:
    """Answers in the making: a row each, with the token that was drawn last and not yet read.

    ``streams`` are their states under each of a job's prompts.
    """

    jobs: list[Job]
    ids: list[list[int]]
    streams: list[Any]
    pending: mx.array
    keys: mx.array

    def keep(self, rows: list[int]) -> None:
        """Keep these rows only."""
        index = mx.array(rows)
        self.jobs = [self.jobs[row] for row in rows]
        self.ids = [self.ids[row] for row in rows]
        for stream in self.streams:
            stream.keep(rows)
        self.pending, self.keys = self.pending[index], self.keys[index]

    def join(self, new: _Live) -> None:
        """Add the rows of another."""
        self.jobs += new.jobs
        self.ids += new.ids
        for mine, others in zip(self.streams, new.streams, strict=True):
            mine.join(others)
        self.pending = mx.concatenate([self.pending, new.pending])
        self.keys = mx.concatenate([self.keys, new.keys])


def prefill_of(
    lm: LanguageModel, prompts: Sequence[tuple[int, ...]], groups: Sequence[str], tally: Tally
) -> Prefill | OwnPrefill:
    """Prompts to go on from, as the model may be run; arguments as of ``Prefill``."""
    kind = Prefill if lm.paths.sampling == "shared" else OwnPrefill
    return kind(lm, prompts, groups, tally)


class _Sampler:
    """The loop of ``respond``: a stem is forwarded once, finished rows make room for others."""

    def __init__(
        self, lm: LanguageModel, jobs: Sequence[Job], sampling: Sampling, tally: Tally
    ) -> None:
        self.lm, self.sampling, self.jobs = lm, sampling, jobs
        self.ends = chat_template.eos_ids(lm.tokenizer)
        groups = [job.group for job in jobs]
        prompts = [job.prompt_ids for job in jobs]
        self.prefills = [prefill_of(lm, prompts, groups, tally)]
        if sampling.contrast:
            others = [job.without_ids for job in jobs]
            self.prefills.append(prefill_of(lm, others, [str(ids) for ids in others], tally))
        order = self.prefills[0].order
        self.queue = deque(sorted(range(len(jobs)), key=lambda i: (*order(i), jobs[i].key)))
        self.rows = sampling.batch_size

    def _rows_that_fit(self) -> int:
        """Rows side by side within the memory limit; at least 1, at most ``most_rows()``."""
        if not self.queue or not self.sampling.memory_limit:
            return most_rows()
        row = 0.0
        for prefill in self.prefills:
            longest = max(self.queue, key=lambda i: len(prefill.prompts[i]))
            columns = len(prefill.prompts[longest]) + self.sampling.max_tokens
            row += max(columns, prefill.bytes_of_row(longest, columns))
        copies = 3  # the rows, their next version while it is written, and activations
        return max(1, min(most_rows(), int(self.sampling.memory_limit / (copies * row))))

    def _admit(self, count: int) -> _Live:
        """Prefill the next waiting jobs and draw the first token of each."""
        chosen = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        jobs = [self.jobs[index] for index in chosen]
        reserve = min(RESERVE, self.sampling.max_tokens)
        keys = [job_key(self.sampling.seed, job.key) for job in jobs]
        live = _Live(
            jobs=jobs,
            ids=[[] for _ in jobs],
            streams=[prefill.stream(chosen, reserve) for prefill in self.prefills],
            pending=mx.array([job.prompt_ids[-1] for job in jobs], dtype=mx.int32),
            keys=mx.array(keys, dtype=mx.uint32),
        )
        last = [mx.array([p.prompts[i][-1] for i in chosen], mx.int32) for p in self.prefills]
        live.pending = self._step(live, [0] * len(jobs), last)
        return live

    def _step(
        self, live: _Live, index: Sequence[int], tokens: Sequence[mx.array] | None = None
    ) -> mx.array:
        """Feed the pending tokens and draw the next ones, which are token ``index`` of each row.

        ``tokens`` are fed instead where the streams differ, as at the end of their prompts.
        """
        fed = tokens or [live.pending] * len(live.streams)
        both = [stream.step(each) for each, stream in zip(fed, live.streams, strict=True)]
        logits = both[0]
        if len(both) == 2:
            logits = context_aware(both[0], both[1], self.sampling.contrast)
        drawn = choose(logits, live.keys, mx.array(list(index), dtype=mx.uint32), self.sampling)
        mx.async_eval(drawn, [stream.state for stream in live.streams])
        return drawn

    def run(self) -> Iterator[tuple[str, Response]]:
        """All answers; the next step is sent off before one is read."""
        if not self.queue:
            return
        self.rows = self.rows or self._rows_that_fit()
        live = self._admit(self.rows)
        most = self.sampling.max_tokens
        while True:
            drawn = live.pending
            if any(len(ids) + 1 < most for ids in live.ids):
                live.pending = self._step(live, [len(ids) + 1 for ids in live.ids])
            kept: list[int] = []
            for row, token in enumerate(np.array(drawn).tolist()):
                ids = live.ids[row]
                ids.append(int(token))
                if token in self.ends or len(ids) == most:
                    reason = "stop" if token in self.ends else "length"
                    text = chat_template.decode(self.lm.tokenizer, ids)
                    yield live.jobs[row].key, Response(text, tuple(ids), reason)
                else:
                    kept.append(row)
            if not kept:
                if not self.queue:
                    return
                del live  # its memory is the next one's
                live = self._admit(self.rows)
                continue
            if len(kept) < len(live.jobs):
                live.keep(kept)
            if self.queue and len(kept) <= REFILL_AT * self.rows:
                live.join(self._admit(self.rows - len(kept)))


def respond(
    lm: LanguageModel, jobs: Sequence[Job], sampling: Sampling, tally: Tally | None = None
) -> Iterator[tuple[str, Response]]:
    """Sample one answer a job; yields ``(key, response)`` as answers finish, in no fixed order.

    ``tally`` counts prompt tokens.

    An answer that ends its turn keeps the end-of-turn token in ``token_ids``; one that reaches
    ``max_tokens`` is marked ``length``.

    Raises:
        ValueError: a prompt without tokens, ``max_tokens`` below 1 or ``batch_size`` below 0.
    """
    if sampling.max_tokens < 1 or sampling.batch_size < 0:
        raise ValueError(f"max_tokens must be at least 1 and batch_size 0, not {sampling}")
    if any(not job.prompt_ids or (sampling.contrast and not job.without_ids) for job in jobs):
        raise ValueError("every prompt must have at least one token")
    if sampling.contrast < 0:
        raise ValueError(f"contrast must be at least 0, not {sampling.contrast}")
    return _respond(_Sampler(lm, jobs, sampling, tally or Tally()))


def _respond(sampler: _Sampler) -> Iterator[tuple[str, Response]]:
    model = sampler.lm.model
    was_training = model.training
    model.eval()
    try:
        yield from sampler.run()
    finally:
        model.train(was_training)
