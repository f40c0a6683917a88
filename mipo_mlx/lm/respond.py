"""Sample answers in batches. Every random number is keyed by (seed, job, token index), so an
answer's text depends neither on order nor on batch composition; only a near tie between two tokens,
closer than rounding, can fall either way.

Greedy decoding takes the most likely token. Not covered: penalties, stop strings, speculation.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mipo_mlx.data.batch import pad_right
from mipo_mlx.lm import chat
from mipo_mlx.lm.forest import (
    Held,
    distinct_prefix_tokens,
    head_of,
    hold_in_chunks,
    stems_of,
)
from mipo_mlx.lm.load import LanguageModel
from mipo_mlx.lm.prefix import GrowingCache, fork, join, settle
from mipo_mlx.types import Response

PREFILL_TOKENS = 16_384  # most prompt tokens forwarded at once
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
    """

    key: str
    prompt_ids: tuple[int, ...]
    group: str = ""


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus, taken before temperature as mlx-lm does; 1 is off.
        max_tokens: most new tokens.
        seed: of every random number.
        batch_size: answers side by side; 0 takes what fits.
        memory_limit: bytes for keys and values when ``batch_size`` is 0; 0 is no limit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    batch_size: int = 0
    memory_limit: int = 0


@dataclass
class Tally:
    """Prompt tokens: forwarded, least possible, and of every prompt whole."""

    forwarded: int = 0
    ideal: int = 0
    unshared: int = 0


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


def choose(logits: mx.array, keys: mx.array, index: mx.array, sampling: Sampling) -> mx.array:
    """Next tokens [b] from logits [b, v]; row i draws with ``keys[i]`` [2] and ``index[i]``."""
    logits = logits.astype(mx.float32)
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    if sampling.top_p < 1:
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        logits = nucleus(logprobs, sampling.top_p)
    step = mx.stack([keys[:, 0], keys[:, 1] + index], axis=1)
    size = (logits.shape[-1],)
    noise = mx.vmap(lambda key: mx.random.gumbel(size, key=key))(step)
    return mx.argmax(logits / sampling.temperature + noise, axis=-1)


@dataclass
class _Live:
    """Answers in the making: a row each, with the token that was drawn last and not yet read."""

    jobs: list[Job]
    ids: list[list[int]]
    caches: list[GrowingCache]
    pending: mx.array
    keys: mx.array

    def keep(self, rows: list[int]) -> None:
        """Keep these rows only."""
        index = mx.array(rows)
        self.jobs = [self.jobs[row] for row in rows]
        self.ids = [self.ids[row] for row in rows]
        self.caches = fork(self.caches, index)
        self.pending, self.keys = self.pending[index], self.keys[index]

    def join(self, new: _Live) -> None:
        """Add the rows of another."""
        self.jobs += new.jobs
        self.ids += new.ids
        self.caches = join(self.caches, new.caches)
        self.pending = mx.concatenate([self.pending, new.pending])
        self.keys = mx.concatenate([self.keys, new.keys])


class _Sampler:
    """The loop of ``respond``: a stem is forwarded once, finished rows make room for others."""

    def __init__(
        self, lm: LanguageModel, jobs: Sequence[Job], sampling: Sampling, tally: Tally
    ) -> None:
        self.lm, self.sampling, self.tally = lm, sampling, tally
        prompts = [job.prompt_ids for job in jobs]
        tally.ideal += distinct_prefix_tokens(prompts)
        tally.unshared += sum(map(len, prompts))
        self.ends = chat.eos_ids(lm.tokenizer)
        stems, owner = stems_of(prompts, [job.group for job in jobs])
        self.stems = stems
        self.head = head_of(stems)
        self.trunk: Held | None = None  # the head, forwarded
        order = sorted(
            range(len(jobs)),
            key=lambda i: (len(stems[owner[i]]), owner[i], len(jobs[i].prompt_ids), jobs[i].key),
        )
        self.queue = deque((jobs[index], owner[index]) for index in order)
        self.plate: list[GrowingCache] = []  # forwarded stems that are still needed
        self.on_plate: list[int] = []
        self.rows = sampling.batch_size

    def _rows_that_fit(self) -> int:
        """Rows side by side within the memory limit; at least 1, at most ``most_rows()``."""
        if not self.queue or not self.sampling.memory_limit:
            return most_rows()
        job, stem = max(self.queue, key=lambda item: len(item[0].prompt_ids))
        self._serve([stem])
        columns = len(job.prompt_ids) + self.sampling.max_tokens
        held = sum(array.nbytes for cache in self.plate for array in cache.state)
        per_column = held / max(1, self.plate[0].held)
        copies = 3  # the rows, their next version while it is written, and activations
        fit = int(self.sampling.memory_limit / (copies * columns * max(1.0, per_column)))
        return max(1, min(most_rows(), fit))

    def _serve(self, wanted: Sequence[int]) -> list[int]:
        """Rows of the plate that hold these stems, forwarded now if they are not there yet."""
        missing = sorted(set(wanted) - set(self.on_plate))
        if missing:
            waiting = {stem for _, stem in self.queue} | set(wanted)
            kept = [row for row, stem in enumerate(self.on_plate) if stem in waiting]
            fresh = self._forward([self.stems[stem] for stem in missing])
            old = fork(self.plate, mx.array(kept)) if kept else []
            self.plate = join(old, fresh) if old else fresh
            self.on_plate = [self.on_plate[row] for row in kept] + missing
        return [self.on_plate.index(stem) for stem in wanted]

    def _forward(self, stems: Sequence[tuple[int, ...]]) -> list[GrowingCache]:
        """Forked caches of stems, a row each, in their order; a head of many is forwarded once."""
        size = len(self.head)
        headed = [index for index, stem in enumerate(stems) if stem[:size] == self.head and size]
        bare = [index for index in range(len(stems)) if index not in set(headed)]
        parts = []
        if headed:
            if self.trunk is None:
                self.trunk = hold_in_chunks(self.lm.model, [self.head], PREFILL_TOKENS)
                self.tally.forwarded += size
            rests = [stems[index][size:] for index in headed]
            parts.append(hold_in_chunks(self.lm.model, rests, PREFILL_TOKENS, self.trunk))
            self.tally.forwarded += sum(map(len, rests))
        if bare:
            whole = [stems[index] for index in bare]
            parts.append(hold_in_chunks(self.lm.model, whole, PREFILL_TOKENS))
            self.tally.forwarded += sum(map(len, whole))
        made = [fork(held.caches, None, held.lengths) for held in parts]
        if len(made) == 1:
            return made[0]
        order = sorted(range(len(stems)), key=[*headed, *bare].__getitem__)
        return fork(join(*made), mx.array(order))

    def _admit(self, count: int) -> _Live:
        """Prefill the next waiting jobs and draw the first token of each."""
        chosen = [self.queue.popleft() for _ in range(min(count, len(self.queue)))]
        jobs = [job for job, _ in chosen]
        rows = self._serve([stem for _, stem in chosen])
        caches = fork(self.plate, mx.array(rows))
        for cache in caches:
            cache.reserve = min(RESERVE, self.sampling.max_tokens)
        rests = [job.prompt_ids[len(self.stems[stem]) : -1] for job, stem in chosen]
        self.tally.forwarded += sum(len(ids) + 1 for ids in rests)
        tokens, _ = pad_right(rests)
        if tokens.shape[1]:
            self.lm.model(mx.array(tokens), cache=caches)
            settle(caches, mx.array([len(ids) for ids in rests]))
        keys = [job_key(self.sampling.seed, job.key) for job in jobs]
        live = _Live(
            jobs=jobs,
            ids=[[] for _ in jobs],
            caches=caches,
            pending=mx.array([job.prompt_ids[-1] for job in jobs], dtype=mx.int32),
            keys=mx.array(keys, dtype=mx.uint32),
        )
        live.pending = self._step(live, [0] * len(jobs))
        return live

    def _step(self, live: _Live, index: Sequence[int]) -> mx.array:
        """Feed the pending tokens and draw the next ones, which are token ``index`` of each row."""
        logits = self.lm.model(live.pending[:, None], cache=live.caches)[:, -1]
        drawn = choose(logits, live.keys, mx.array(list(index), dtype=mx.uint32), self.sampling)
        mx.async_eval(drawn, [cache.state for cache in live.caches])
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
                    text = chat.decode(self.lm.tokenizer, ids)
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
    if any(not job.prompt_ids for job in jobs):
        raise ValueError("every prompt must have at least one token")
    return _respond(_Sampler(lm, jobs, sampling, tally or Tally()))


def _respond(sampler: _Sampler) -> Iterator[tuple[str, Response]]:
    model = sampler.lm.model
    was_training = model.training
    model.eval()
    try:
        yield from sampler.run()
    finally:
        model.train(was_training)
