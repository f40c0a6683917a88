"""Log-probs of several responses to one prompt, with the prompt forwarded once.

The prompt fills a functional cache: its keys and values stay nodes of the graph, so gradients flow
through it. The cache is then forked, one row a response, and the model runs on the last prompt
token and the response. That yields logits exactly where a response token is predicted, through the
model's own head, whatever the architecture; logits of the prompt are never read, so MLX, being
lazy, never computes them.

Columns of the cache: the prompt's, left-aligned, ``lengths[row]`` of them real, then the
response's. A real column's position is its count of real columns before it, so padding changes
neither positions nor sliding windows, and every row sees itself: no row is ever fully masked.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mipo_mlx.errors import ModelError


def branch_mask(
    lengths: mx.array, shared: int, past: int, new: int, window: int | None = None
) -> mx.array:
    """What each of ``new`` response tokens may see.

    Args:
        lengths: real prompt columns of each row [b].
        shared: prompt columns, padding included.
        past: response columns already held.
        new: response columns now added.
        window: sees this many tokens, itself included; None is all.

    Returns:
        bool [b, 1, new, shared + past + new].
    """
    column = mx.arange(shared + past + new)
    held = lengths[:, None]
    position = mx.where(column < shared, column, column - shared + held)  # [b, columns]
    real = (column >= shared) | (column < held)
    query = (held + past + mx.arange(new))[:, :, None]  # [b, new, 1]
    key = position[:, None, :]
    visible = real[:, None, :] & (key <= query)
    if window is not None:
        visible = visible & (key > query - window)
    return visible[:, None]


class GrowingCache:
    """Keys and values of one layer, in the interface that mlx-lm's models expect of a cache.

    It starts in prompt mode: rows left-aligned and right-padded, positions 0, 1, 2, ...
    ``fork`` gives a cache in response mode, with positions that go on from each row's own length.

    Args:
        mask_rank: axes of an array mask; 5 for models that score grouped heads on an own axis.
        reserve: response columns allocated at a time and written in place. 0 concatenates
            instead, as gradients need.
    """

    def __init__(self, mask_rank: int = 4, reserve: int = 0) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.held = 0  # columns in use
        self.shared = 0  # of these, the prompt's
        self.lengths: mx.array | None = None  # [b] in response mode
        self.mask_rank = mask_rank
        self.reserve = reserve

    @property
    def offset(self) -> int | mx.array:
        """Position of the next token: int in prompt mode, [b] in response mode."""
        if self.lengths is None:
            return self.held
        return self.lengths + (self.held - self.shared)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append [b, heads, new, d] and return all columns [b, heads, held, d]."""
        start, self.held = self.held, self.held + keys.shape[2]
        self.keys = self._append(self.keys, keys, start)
        self.values = self._append(self.values, values, start)
        return self.keys[..., : self.held, :], self.values[..., : self.held, :]

    def _append(self, old: mx.array | None, new: mx.array, start: int) -> mx.array:
        if self.lengths is None or not self.reserve:
            return new if old is None else mx.concatenate([old, new], axis=2)
        if old is None or start + new.shape[2] > old.shape[2]:
            shape = (*new.shape[:2], max(self.reserve, new.shape[2]), new.shape[3])
            room = mx.zeros(shape, new.dtype)
            old = room if old is None else mx.concatenate([old[..., :start, :], room], axis=2)
        old[..., start : start + new.shape[2], :] = new
        return old

    def make_mask(
        self, new: int, return_array: bool = False, window_size: int | None = None
    ) -> Any:
        """Mask for ``new`` more tokens: bool array, or ``"causal"`` where that says the same."""
        from mlx_lm.models.base import create_causal_mask

        if self.lengths is not None:
            past = self.held - self.shared
            mask = branch_mask(self.lengths, self.shared, past, new, window_size)
            return mask[:, None] if self.mask_rank == 5 else mask
        narrow = window_size is not None and self.held + new > window_size
        if narrow or return_array or self.held:
            return create_causal_mask(new, offset=self.held, window_size=window_size)
        return "causal"

    def fork(self, lengths: mx.array, repeats: int = 1) -> GrowingCache:
        """Response mode: each row ``repeats`` times, ``lengths`` [b] real prompt columns each."""
        twin = GrowingCache(self.mask_rank, self.reserve)
        twin.held = twin.shared = self.held
        if self.keys is not None and self.values is not None:
            twin.keys, twin.values = self.keys, self.values
            if repeats > 1:
                twin.keys = mx.repeat(self.keys, repeats, axis=0)
                twin.values = mx.repeat(self.values, repeats, axis=0)
        twin.lengths = mx.repeat(lengths, repeats, axis=0) if repeats > 1 else lengths
        return twin

    def keep(self, rows: mx.array) -> None:
        """Keep these rows only, in place; response mode."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]
        if self.lengths is not None:
            self.lengths = self.lengths[rows]

    @property
    def state(self) -> list[mx.array]:
        """Arrays to evaluate."""
        return [] if self.keys is None or self.values is None else [self.keys, self.values]


def new_caches(model: Any, reserve: int = 0) -> list[GrowingCache]:
    """Empty caches, one for each that the model asks for.

    Raises:
        ModelError: a layer keeps a state other than plain keys and values.
    """
    from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

    stock = make_prompt_cache(model)
    other = {type(cache).__name__ for cache in stock} - {KVCache.__name__, RotatingKVCache.__name__}
    if other:
        raise ModelError(
            f"Layers with {', '.join(sorted(other))} are not supported (model type "
            f"{getattr(model, 'model_type', '?')!r}).",
            "take a model whose layers are all attention, such as Llama, Qwen2 or Gemma 2",
        )
    return [GrowingCache(_mask_rank(model), reserve) for _ in stock]


def _mask_rank(model: Any) -> int:
    """Gemma 2 gives grouped heads an axis of their own; a mask of rank 4 would meet it wrongly."""
    if getattr(model, "model_type", "") != "gemma2":
        return 4
    return 5 if model.args.num_attention_heads > model.args.num_key_value_heads else 4


def left_align(tokens: mx.array, lengths: mx.array) -> mx.array:
    """Move the padding of left-padded rows [b, l] to their right; ``lengths`` [b] are real."""
    width = tokens.shape[1]
    index = (mx.arange(width) + (width - lengths)[:, None]) % width
    return mx.take_along_axis(tokens, index, axis=1)


def shared_token_logprobs(
    model: Any,
    prompt_tokens: mx.array,
    prompt_lengths: mx.array,
    response_tokens: mx.array,
    response_mask: mx.array,
) -> mx.array:
    """``log p(y_t | x, y_<t)`` of every response token, prompts forwarded once.

    Args:
        model: an mlx-lm model.
        prompt_tokens: left-padded [p, lp] int.
        prompt_lengths: real prompt tokens [p] int, at least 1.
        response_tokens: right-padded [p, r, lr] int.
        response_mask: True at real response tokens [p, r, lr].

    Returns:
        nats, fp32 [p, r, lr]; 0 at padding.
    """
    count, repeats, width = response_tokens.shape
    caches = new_caches(model)
    before = prompt_lengths - 1
    if prompt_tokens.shape[1] > 1:
        model(left_align(prompt_tokens[:, :-1], before), cache=caches)  # logits are never read
    forks = [cache.fork(before, repeats) for cache in caches]
    targets = response_tokens.reshape(count * repeats, width)
    last = mx.repeat(prompt_tokens[:, -1:], repeats, axis=0)
    inputs = mx.concatenate([last, targets[:, :-1]], axis=1)
    logits = model(inputs, cache=forks).astype(mx.float32)
    picked = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    logps = picked - mx.logsumexp(logits, axis=-1)
    mask = response_mask.reshape(count * repeats, width).astype(mx.bool_)
    return mx.where(mask, logps, 0.0).reshape(count, repeats, width)


def shared_logprobs(
    model: Any,
    prompt_tokens: mx.array,
    prompt_lengths: mx.array,
    response_tokens: mx.array,
    response_mask: mx.array,
) -> mx.array:
    """``log p(y|x)``, summed over tokens: nats, fp32 [p, r]. See ``shared_token_logprobs``."""
    return shared_token_logprobs(
        model, prompt_tokens, prompt_lengths, response_tokens, response_mask
    ).sum(axis=-1)
