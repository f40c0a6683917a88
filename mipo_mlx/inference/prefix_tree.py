"""Log-probs over a forest: stems -> branches -> responses, every node forwarded once.

A stem is what several prompts start with, such as a user's context; a branch is the rest of one
prompt; responses follow branches. Keys and values stay nodes of the graph, so gradients flow back
through branches and stems. Whole prompts without sharing are a forest of stems only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mipo_mlx.core import logprobs as core
from mipo_mlx.data.batches import pad_right
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.checkpointing import recomputed
from mipo_mlx.inference.layer_caches import Caches, fork, settle
from mipo_mlx.inference.prompt_cache import Held, fill, hold, lengths_of, unpadded

_BEYOND = 2**31  # above every token id


@dataclass(frozen=True)
class Row:
    """A prompt with its responses.

    Attributes:
        prompt_ids: at least one token.
        responses: token ids, end-of-turn token included where there is one; none is empty.
        group: prompts of one group share the tokens that all of them start with; "" shares none.
    """

    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    group: str = ""


class Forest(NamedTuple):
    """Arrays of a batch. All rows are right-padded; lengths count real tokens.

    stems [s, ls] int32, stem_lengths [s] · branches [b, lb] int32 (without each prompt's last
    token), branch_lengths [b], stem_of [b] · last [b] int32, the prompts' last tokens ·
    responses [r, lr] int32, mask [r, lr] bool, branch_of [r] · real [n] int32, the places of
    response tokens among the r * lr; places beyond the last are padding · even_stems and
    even_branches are known to have no padding.
    """

    stems: mx.array
    stem_lengths: mx.array
    branches: mx.array
    branch_lengths: mx.array
    stem_of: mx.array
    last: mx.array
    responses: mx.array
    mask: mx.array
    branch_of: mx.array
    real: mx.array
    even_stems: bool = False
    even_branches: bool = False

    @property
    def arrays(self) -> list[mx.array]:
        """All but what is known besides."""
        return [item for item in self if isinstance(item, mx.array)]

    @classmethod
    def of(cls, arrays: Sequence[mx.array]) -> Forest:
        """Of its arrays, of which nothing is known besides."""
        return cls._make([*arrays, False, False])


def shared_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that two prompts start with, by bisection of slices."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts start with, leaving at least one to each."""
    # what the first and the last in dictionary order share, all share
    return min(shared_length(min(prompts), max(prompts)), min(map(len, prompts)) - 1)


def stems_of(
    prompts: Sequence[tuple[int, ...]], groups: Sequence[str]
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Distinct stems, and for each prompt the index of its own.

    A prompt without a group is its own stem, save for its last token.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group or f"\0{index}", []).append(index)
    stems: list[tuple[int, ...]] = []
    owner = [0] * len(prompts)
    for indices in members.values():
        mine = [prompts[index] for index in indices]
        for index in indices:
            owner[index] = len(stems)
        stems.append(mine[0][: common_length(mine)])
    return stems, owner


def head_of(stems: Sequence[tuple[int, ...]], worth: float = 0.02) -> tuple[int, ...]:
    """The tokens that stems start with and that are worth forwarding once for all of them.

    Of all prefixes that two or more stems share, the one that saves most; none when it saves less
    than ``worth`` of all tokens.
    """
    ordered = sorted(stems)
    found = {one[: shared_length(one, other)] for one, other in pairwise(ordered)}
    best: tuple[int, ...] = ()
    saved = worth * sum(map(len, ordered))
    for prefix in found:
        first = bisect_left(ordered, prefix)
        count = bisect_left(ordered, (*prefix, _BEYOND)) - first
        if len(prefix) * (count - 1) > saved:
            best, saved = prefix, len(prefix) * (count - 1)
    return best


def plant(
    rows: Sequence[Row],
    stems: Sequence[tuple[int, ...]] | None = None,
    owner: Sequence[int] | None = None,
) -> Forest:
    """Pad rows into one forest; responses in the order of rows, then of each row's own.

    Args:
        rows: prompts with responses.
        stems: those already forwarded, which the forest then leaves out; None finds them.
        owner: with ``stems``, the index of each row's own.
    """
    prompts = [row.prompt_ids for row in rows]
    known = stems is not None and owner is not None
    if stems is None or owner is None:
        stems, owner = stems_of(prompts, [row.group for row in rows])
    rests = [ids[len(stems[owner[index]]) : -1] for index, ids in enumerate(prompts)]
    stem_tokens, _ = pad_right([()] if known else stems)
    branch_tokens, _ = pad_right(rests)
    # Metal kernels of recurrent layers for one token have no gradient
    tokens, mask = pad_right([ids for row in rows for ids in row.responses], least=2)
    branch_of = np.repeat(np.arange(len(rows)), [len(row.responses) for row in rows])
    return Forest(
        stems=mx.array(stem_tokens),
        stem_lengths=lengths_of([()] if known else stems),
        branches=mx.array(branch_tokens),
        branch_lengths=lengths_of(rests),
        stem_of=mx.array(list(owner), dtype=mx.int32),
        last=mx.array([ids[-1] for ids in prompts], dtype=mx.int32),
        responses=mx.array(tokens),
        mask=mx.array(mask),
        branch_of=mx.array(branch_of.astype(np.int32)),
        real=mx.array(np.flatnonzero(mask).astype(np.int32)),
        even_stems=not known and unpadded(stems),
        even_branches=unpadded(rests),
    )


def alone(rows: Sequence[Row]) -> Forest:
    """A forest in which nothing is shared: each response stands behind a prompt of its own.

    It is forwarded without caches, so any language model will do.
    """
    prompts = [row.prompt_ids for row in rows for _ in row.responses]
    answers = [ids for row in rows for ids in row.responses]
    tokens, mask = pad_right([(*p, *ids)[1:] for p, ids in zip(prompts, answers, strict=True)])
    for prompt, line in zip(prompts, mask, strict=True):
        line[: len(prompt) - 1] = False
    none = mx.zeros((len(answers), 0), dtype=mx.int32)
    places = mx.arange(len(answers), dtype=mx.int32)
    return Forest(
        stems=none,
        stem_lengths=mx.zeros_like(places),
        branches=none,
        branch_lengths=mx.zeros_like(places),
        stem_of=places,
        last=mx.array([prompt[0] for prompt in prompts], dtype=mx.int32),
        responses=mx.array(tokens),
        mask=mx.array(mask),
        branch_of=places,
        real=mx.array(np.flatnonzero(mask).astype(np.int32)),
    )


def grow(
    model: Any, forest: Forest, held: Held | None = None, *, segmented: bool = False
) -> Caches:
    """Caches that hold all but the last token of each prompt, a row a branch.

    Args:
        model: an mlx-lm model.
        forest: the batch.
        held: its stems, when they have been forwarded already.
        segmented: keys and values are copied for their rows inside of checkpointed blocks.
    """
    stems = held or hold(
        model,
        forest.stems,
        forest.stem_lengths,
        even=forest.even_stems,
        segmented=segmented,
    )
    caches = fork(stems.caches, forest.stem_of, stems.lengths, even=stems.even)
    if forest.branches.shape[1]:
        lengths, even = forest.branch_lengths, forest.even_branches
        fill(model, forest.branches, caches, lengths, even=even)
        settle(caches, lengths, even=even)
    return caches


def token_logprobs(
    model: Any,
    forest: Forest,
    held: Held | None = None,
    *,
    budget: int = lm_head.BUDGET,
    recompute: bool = False,
) -> mx.array:
    """``log p(y_t | x, y_<t)`` of every response token: nats, fp32 [r, lr], 0 at padding.

    Args:
        model: an mlx-lm model.
        forest: the batch.
        held: its stems, when they have been forwarded already.
        budget: bytes of logits alive at once; 0 makes all of them at once.
        recompute: blocks drop their activations and make them again for the gradient.
    """
    parts = lm_head.parts(model) if budget else None
    if parts is None:
        with recomputed(model, recompute):
            inputs, caches = _responses(model, forest, held, recompute)
            logps = core.token_logprobs(model(inputs, cache=caches), forest.responses)
        return mx.where(forest.mask, logps, 0.0)
    hidden = response_states(parts, model, forest, held, recompute=recompute)
    eager = lm_head.on_cpu() and not recompute  # what blocks drop would be kept
    rows = lm_head.chunk_rows(parts.vocabulary(hidden), budget, eager=eager)
    values = lm_head.chunked_logprobs(
        parts.logits, hidden, targets_of(forest), rows, slopes=model.training, eager=eager
    )
    places = mx.zeros(forest.responses.size + 1).at[forest.real].add(values)
    return places[:-1].reshape(forest.responses.shape)


def _responses(
    model: Any, forest: Forest, held: Held | None, segmented: bool
) -> tuple[mx.array, Caches | None]:
    """What is fed for the responses [r, lr], and the caches that their prompts filled, if any."""
    caches = None
    if held or forest.stems.shape[1] or forest.branches.shape[1]:
        caches = fork(grow(model, forest, held, segmented=segmented), forest.branch_of)
    first = forest.last[forest.branch_of][:, None]
    return mx.concatenate([first, forest.responses[:, :-1]], axis=1), caches


def response_states(
    parts: lm_head.Parts,
    model: Any,
    forest: Forest,
    held: Held | None = None,
    *,
    recompute: bool = False,
) -> mx.array:
    """Hidden states [n, d] before each real response token, in the order of ``forest.real``."""
    with recomputed(model, recompute):
        hidden = parts.hidden(*_responses(model, forest, held, recompute))
    return hidden.reshape(-1, hidden.shape[-1])[_within(forest)]


def targets_of(forest: Forest) -> mx.array:
    """Real response tokens [n]."""
    return forest.responses.reshape(-1)[_within(forest)]


def _within(forest: Forest) -> mx.array:
    return mx.minimum(forest.real, forest.responses.size - 1)


def sequence_logprobs(model: Any, forest: Forest, held: Held | None = None, **how: Any) -> mx.array:
    """``log p(y|x)`` of every response, summed over its tokens: nats, fp32 [r].

    ``how`` is as in ``token_logprobs``.
    """
    return token_logprobs(model, forest, held, **how).sum(axis=-1)


def forwarded(rows: Sequence[Row]) -> int:
    """Tokens that a forest of these rows forwards, padding aside."""
    stems, owner = stems_of([row.prompt_ids for row in rows], [row.group for row in rows])
    branches = sum(
        len(row.prompt_ids) - 1 - len(stems[index]) for row, index in zip(rows, owner, strict=True)
    )
    return sum(map(len, stems)) + branches + sum(len(ids) for row in rows for ids in row.responses)


def distinct_prefix_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens of all prompts with each distinct prefix counted once: the least one can forward."""
    count = 0
    before: tuple[int, ...] = ()
    for prompt in sorted(set(prompts)):
        count += len(prompt) - shared_length(before, prompt)
        before = prompt
    return count
