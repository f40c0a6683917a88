"""How much memory a training step will take, told from shapes before anything runs.

A step keeps what the backward pass reads: of each block the activations of every token, the
attention's shares and the keys and values of every row; with checkpointing only what enters a
block. On top come, whichever is larger, one chunk of logits or one block's work in the backward
pass. The coefficients were fitted to MLX's own count of bytes (``benchmarks/memory.py --fit``) on
a CPU, for fp32 and for half precision apart: adapters compute in fp32 whatever the model does.

Attention on a CPU keeps its shares. On a GPU it is fused where no mask or a causal one is given and
keeps none; whether MLX's gradient kernel allocates anything of that size has not been seen on one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import Row, stems_of
from mipo_mlx.inference.prompt_cache import CAUSAL_PIECE
from mipo_mlx.models.architecture import recurrent_elements
from mipo_mlx.training.compile import rounded

HALF_DTYPES = ("float16", "bfloat16")
# copies of each token's state that a gradient keeps: counted 3.3 for delta rules with decay, 1.8
# and 1.5 for Mamba 1 and RWKV-7, on states of 32,768 and 16,384 elements and 32 to 256 tokens
STATES = 3.3


@dataclass(frozen=True)
class Dimensions:
    """What of a model's configuration decides about its activations.

    Attributes:
        hidden, layers, heads, kv_heads, head_dim, vocabulary: as in ``config.json``.
        intermediate: width of the gate of a token, all of its experts together.
        itemsize: bytes of an activation.
        recurrent: fp32 elements of the states of one token, of a layer on average, that are made
            token by token.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    itemsize: int = 4
    recurrent: float = 0.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Dimensions:
        """From the contents of ``config.json``.

        Raises:
            KeyError, TypeError, ValueError: it lacks what is needed.
        """
        inner = config.get("text_config")
        known = {**config, **(inner if isinstance(inner, Mapping) else {})}

        def first(*names: str) -> Any:
            return next((known[name] for name in names if known.get(name) is not None), None)

        hidden = int(first("hidden_size", "d_model", "n_embd"))
        heads = int(first("num_attention_heads", "n_head") or 1)
        experts = int(first("num_experts_per_tok") or 0)
        wide = first("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
        wide = max(wide) if isinstance(wide, Sequence) else wide
        if experts and first("moe_intermediate_size"):
            wide = experts * int(first("moe_intermediate_size"))
        dtype = first("torch_dtype", "dtype")
        half = dtype in HALF_DTYPES or (dtype is None and "quantization" in known)
        return cls(
            hidden=hidden,
            layers=int(first("num_hidden_layers", "n_layer")),
            heads=heads,
            kv_heads=int(first("num_key_value_heads") or heads),
            head_dim=int(first("head_dim") or hidden // heads),
            intermediate=int(wide),
            vocabulary=int(known["vocab_size"]),
            itemsize=2 if half else 4,
            recurrent=recurrent_elements(known),
        )


@dataclass(frozen=True)
class Pass:
    """Tokens that go through the blocks together: rows of ``queries`` that see ``keys`` columns.

    ``causal`` says that attention is told so, and given no array as its mask.
    """

    rows: int
    queries: int
    keys: int
    causal: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.queries


@dataclass(frozen=True)
class Geometry:
    """The passes of a forest's stems, branches and responses, and its real response tokens."""

    passes: tuple[Pass, ...]
    answers: int

    @classmethod
    def of(cls, rows: Sequence[Row], *, shares: bool = True) -> Geometry:
        """Of the forest that ``plant`` makes of rows, or ``alone`` where nothing is shared."""
        answers = sum(len(ids) for row in rows for ids in row.responses)
        size = _width(compiled=True)
        if not shares:
            widths = [len(row.prompt_ids) + len(ids) - 1 for row in rows for ids in row.responses]
            most = size(max(widths))
            return cls((Pass(len(widths), most, most, causal=True),), answers)
        stems, owner = stems_of([row.prompt_ids for row in rows], [row.group for row in rows])
        stem = size(max(map(len, stems)))
        step = CAUSAL_PIECE if lm_head.on_cpu() else max(1, stem)
        passes = [
            Pass(len(stems), min(step, stem - start), min(stem, start + step), causal=True)
            for start in range(0, stem, step)
        ]
        after = cls.after(rows, [len(stems[mine]) for mine in owner], compiled=True)
        return cls((*passes, *after.passes), answers)

    @classmethod
    def after(
        cls, rows: Sequence[Row], stems: Sequence[int], *, compiled: bool = False
    ) -> Geometry:
        """Of what follows stems of these lengths, one a row, that are forwarded already.

        ``compiled`` is that the step may be compiled: widths are rounded up on a GPU then, and
        nothing is known to have no padding, so that masks are arrays.
        """
        size = _width(compiled)
        rests = [len(row.prompt_ids) - length for row, length in zip(rows, stems, strict=True)]
        even = not compiled and len(set(stems)) == 1
        stem = size(max(stems))
        branch = size(max(rests) - 1)
        width = size(max(len(ids) for row in rows for ids in row.responses))
        passes = [Pass(len(rows), branch, stem + branch, even)] if branch else []
        even = even and len(set(rests)) == 1
        count = sum(len(row.responses) for row in rows)
        answers = sum(len(ids) for row in rows for ids in row.responses)
        return cls((*passes, Pass(count, width, stem + branch + width, even)), answers)


def _width(compiled: bool) -> Callable[[int], int]:
    """What becomes of the width of a padded array, on the way to a step."""
    return rounded if compiled and not lm_head.on_cpu() else int


@dataclass(frozen=True)
class Bunch:
    """Batches that go on from prompts forwarded by themselves.

    Attributes:
        tokens: of these prompts, padding included.
        piece: the widest pass of them, which sees most.
        parts: of the batches, one after the other.
    """

    tokens: int
    piece: Pass
    parts: tuple[Geometry, ...]

    @classmethod
    def of(cls, stems: Sequence[int], columns: int, parts: Sequence[Geometry]) -> Bunch:
        """Of stems of these lengths, this many columns forwarded at once."""
        longest = max(stems)
        piece = Pass(len(stems), min(columns, longest), longest, causal=True)
        return cls(len(stems) * longest, piece, tuple(parts))


@dataclass(frozen=True)
class Coefficients:
    """Arrays alive, in units of the widths they are named after.

    ``hidden`` to ``keys``: kept of a block. ``state`` and ``held``: kept of a checkpointed block.
    ``token``, ``score`` and ``head``: a block's work in the backward pass, of its activations, of
    its attention's shares and of keys spread over heads. ``again_`` likewise when it is
    checkpointed; ``again`` is what all passes of one block keep meanwhile. ``eager_``: kept of a
    block where hidden states are evaluated before the backward graph is built. ``logit``: of the
    copies of a chunk's logits. The defaults are of fp32.
    """

    hidden: float = 3.53
    heads: float = 1.88
    gate: float = 5.36
    shares: float = 1.23
    keys: float = 1.82
    token: float = 0.78
    score: float = 1.06
    head: float = 0.06
    state: float = 1.36
    held: float = 1.25
    again_token: float = 0.68
    again_score: float = 1.39
    again: float = 1.56
    eager_token: float = 2.75
    eager_shares: float = 3.4
    eager_keys: float = 7.0
    logit: float = 0.51


FULL = Coefficients()
HALF = Coefficients(
    hidden=6.28,
    heads=3.34,
    gate=8.19,
    shares=1.49,
    keys=1.22,
    token=1.21,
    score=1.83,
    head=0.08,
    state=2.02,
    held=3.1,
    again_token=1.17,
    again_score=1.72,
    again=1.57,
    logit=0.57,
)  # in units of 2 bytes


def fuses(head_dim: int) -> bool:
    """Whether causal attention keeps no scores for its gradient here: MLX 0.32.4 on a GPU."""
    on_gpu = mx.default_device() != mx.Device(mx.cpu)
    return on_gpu and 64 <= head_dim <= 256


@dataclass(frozen=True)
class _Sizes:
    """Elements that one block keeps of a pass, by a model's dimensions and coefficients."""

    of: Dimensions
    by: Coefficients

    def token(self, one: Pass) -> float:
        of, by = self.of, self.by
        width = by.hidden * of.hidden + by.heads * of.heads * of.head_dim
        states = STATES * of.recurrent * 4 / of.itemsize
        return one.tokens * (width + by.gate * of.intermediate + states)

    def scores(self, one: Pass) -> float:
        if one.causal and fuses(self.of.head_dim):
            return 0.0
        return one.tokens * one.keys * self.of.heads

    def pairs(self, one: Pass) -> float:
        return one.rows * one.keys * self.of.head_dim

    def block(self, one: Pass) -> float:
        """All that the backward pass reads."""
        by = self.by
        keys = by.keys * self.of.kv_heads * self.pairs(one)
        return self.token(one) + by.shares * self.scores(one) + keys

    def eager_block(self, one: Pass) -> float:
        """All that was computed."""
        by = self.by
        keys = by.eager_keys * self.of.kv_heads * self.pairs(one)
        return by.eager_token * self.token(one) + by.eager_shares * self.scores(one) + keys

    def checkpointed(self, passes: Sequence[Pass]) -> tuple[float, float]:
        """What is kept, and a block's work, with activations made again."""
        of, by = self.of, self.by
        width = by.state * of.hidden + by.held * of.kv_heads * of.head_dim
        work = max(
            by.again_token * self.token(one) + by.again_score * self.scores(one) for one in passes
        )
        kept = of.layers * width * sum(one.tokens for one in passes)
        return kept, by.again * sum(map(self.block, passes)) + work

    def whole(self, passes: Sequence[Pass]) -> tuple[float, float]:
        """Likewise, with activations kept; of prompts, the last block has keys and values alone."""
        of, by = self.of, self.by
        kept = of.layers * sum(map(self.block, passes))
        kept -= sum(self.token(one) + by.shares * self.scores(one) for one in passes[:-1])
        work = max(
            by.token * self.token(one)
            + by.score * self.scores(one)
            + by.head * of.heads * self.pairs(one)
            for one in passes
        )
        return kept, work

    def eager(self, passes: Sequence[Pass]) -> tuple[float, float]:
        """Likewise, where the forward pass was evaluated while MLX traced it."""
        blocks = [self.eager_block(one) for one in passes]
        return self.of.layers * sum(blocks) - sum(blocks[:-1]), self.whole(passes)[1]


def step_bytes(
    geometry: Geometry | Bunch,
    of: Dimensions,
    *,
    budget: int,
    recompute: bool,
    by: Coefficients | None = None,
) -> int:
    """Peak bytes of the gradient of what is forwarded together, weights and optimizer aside.

    Args:
        geometry: of a micro-batch's forest, or of all that go on from the same prompts.
        of: the model's dimensions.
        budget: bytes of logits at once; 0 is all of them.
        recompute: blocks are checkpointed.
        by: in place of the fitted ones.
    """
    by = by or (FULL if of.itemsize == 4 else HALF)
    if isinstance(geometry, Bunch):
        return _bunch_bytes(geometry, of, budget, recompute, by)
    sizes, passes = _Sizes(of, by), geometry.passes
    eager = lm_head.on_cpu() and budget > 0 and not recompute
    if recompute:
        kept, work = sizes.checkpointed(passes)
    elif eager:
        kept, work = sizes.eager(passes)
    else:
        kept, work = sizes.whole(passes)
    copies = lm_head.EAGER_COPIES if eager else lm_head.LAZY_COPIES
    at_once = geometry.answers
    if budget and at_once:
        rows = lm_head.chunk_rows(of.vocabulary, budget, eager=eager)
        at_once = -(-at_once // -(-at_once // rows))
    logits = by.logit * 4 * copies * at_once * of.vocabulary
    return int(of.itemsize * kept + max(of.itemsize * work, logits))


def _bunch_bytes(
    bunch: Bunch, of: Dimensions, budget: int, recompute: bool, by: Coefficients
) -> int:
    """Of prompts' keys and values, and one pass at a time."""
    held = bunch.tokens * of.layers * 2 * of.kv_heads * of.head_dim
    piece = Geometry((bunch.piece, Pass(0, 0, 0)), 0)  # no pass of responses, and no head
    most = max(
        step_bytes(one, of, budget=0 if one is piece else budget, recompute=recompute, by=by)
        for one in (*bunch.parts, piece)
    )
    return held * (of.itemsize + 2 * 4) + most  # and the slopes to them, one more as they are added


def plain_bytes(rows: int, width: int, answer: int, of: Dimensions) -> int:
    """Peak bytes of the plain step: full rows at once, logits of all positions, nothing shared.

    Args:
        rows: answers, each behind a prompt of its own.
        width: tokens of a row.
        answer: tokens of each answer, whose log-probs are taken.
        of: the model's dimensions.
    """
    geometry = Geometry((Pass(rows, width, width, causal=True),), rows * answer)
    logits = 2 * of.itemsize * rows * width * of.vocabulary  # and the gradient to them
    return step_bytes(geometry, of, budget=0, recompute=False) + logits
