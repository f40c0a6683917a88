"""The gradient of a loss, eager and lazy, checkpointed or not, against stock rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import Forest, Row, plant, stems_of
from mipo_mlx.training.gradients import forward_trunk, loss_gradient, trunk_gradient

from . import archs
from .test_forest import SMALL, level, plain, ragged, relative, with_lora

NAMES = sorted([*archs.ARCHS, *archs.MORE_ARCHS])


def contrast(logps: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    """A loss that is curved in every log-prob, and weighs them differently."""
    margin = logps[::2] - logps[1::2]
    scale = 1 + mx.arange(margin.size)
    return (scale * nn.softplus(-0.1 * margin)).sum(), {"margin": margin}


def by_rows(model: Any, rows: Any) -> tuple[mx.array, Any]:
    """The same by the stock model, a full sequence for each response."""

    def loss(model: Any) -> tuple[mx.array, mx.array]:
        value, told = contrast(plain(model, rows))
        return value, told["margin"]

    (_, margin), grads = nn.value_and_grad(model, loss)(model)
    return margin, grads


def quantized(name: str) -> Any:
    model = archs.build(name)
    nn.quantize(
        model,
        group_size=32,
        bits=4,
        class_predicate=lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0,
    )
    return with_lora(model=model)


@pytest.mark.parametrize("base", ["fp32", "4 bits"])
@pytest.mark.parametrize("repeats", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_full_rows_one_by_one(name: str, repeats: int, base: str) -> None:
    model = (with_lora(name) if base == "fp32" else quantized(name)).train()
    rows = ragged(repeats)
    margin, wanted = by_rows(model, rows)
    for recompute in (False, True):
        told, grads = loss_gradient(model, plant(rows), contrast, budget=SMALL, recompute=recompute)
        np.testing.assert_allclose(np.array(told["margin"]), np.array(margin), atol=2e-4)
        assert relative(grads, wanted) < 1e-5


def by_pieces(
    model: Any, rows: list[Row], cuts: list[int], piece: int, **how: Any
) -> tuple[list[mx.array], Any]:
    """Margins and gradient with prompts forwarded by themselves, and then rows in parts."""
    prompts, groups = [row.prompt_ids for row in rows], [row.group for row in rows]
    stems, owner = stems_of(prompts, groups)
    trunk = forward_trunk(model, stems, piece * len(stems))
    margins, total = [], None
    for start, stop in pairwise([0, *cuts, len(rows)]):
        forest = plant(rows[start:stop], stems, owner[start:stop])
        told, grads = loss_gradient(model, forest, contrast, trunk=trunk, **how)
        margins.append(told["margin"])
        total = grads if total is None else tree_map(mx.add, total, grads)
    last = trunk_gradient(model, trunk, recompute=how["recompute"])
    return margins, tree_map(mx.add, total, last)


@pytest.mark.parametrize(
    ("base", "recompute"), [("fp32", False), ("fp32", True), ("4 bits", False)]
)
@pytest.mark.parametrize("name", NAMES)
def test_prompts_forwarded_by_themselves_change_nothing(
    name: str, base: str, recompute: bool
) -> None:
    """In pieces of 5 tokens, where windows of some models are shorter; and in a single one."""
    model = (with_lora(name) if base == "fp32" else quantized(name)).train()
    wanted, told = None, []
    for cuts, piece, rows in (([3, 4], 5, ragged(2)), ([], 100, ragged(2)), ([2], 5, level(2))):
        parts = [rows[a:b] for a, b in pairwise([0, *cuts, len(rows)])]
        each = [by_rows(model, part) for part in parts]
        wanted = each[0][1]
        for _, grads in each[1:]:
            wanted = tree_map(mx.add, wanted, grads)
        told, found = by_pieces(model, rows, cuts, piece, budget=SMALL, recompute=recompute)
        for mine, (margin, _) in zip(told, each, strict=True):
            np.testing.assert_allclose(np.array(mine), np.array(margin), atol=2e-4)
        assert relative(found, wanted) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3"])
def test_the_lazy_path_of_gpus_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(name).train()
    forest = plant(ragged(2))
    _, wanted = loss_gradient(model, forest, contrast, budget=SMALL, recompute=False)
    monkeypatch.setattr(lm_head, "on_cpu", lambda: False)
    for budget in (0, SMALL):
        _, grads = loss_gradient(model, forest, contrast, budget=budget, recompute=True)
        assert relative(grads, wanted) < 1e-5
        _, grads = by_pieces(model, ragged(2), [], 6, budget=budget, recompute=False)
        assert relative(grads, wanted) < 1e-5


def test_half_precision_is_as_close_to_fp32_as_the_plain_step() -> None:
    exact = with_lora("llama").train()
    rows = ragged(2)
    _, wanted = by_rows(exact, rows)
    rough = with_lora("llama").train()
    rough.set_dtype(mx.bfloat16)
    _, plain_grads = by_rows(rough, rows)
    _, grads = loss_gradient(rough, plant(rows), contrast, budget=SMALL, recompute=True)
    assert relative(grads, wanted) < 1.25 * relative(plain_grads, wanted)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("slopes", [False, True])
def test_log_probs_and_slopes_of_chunks_are_those_of_the_formula(
    slopes: bool, eager: bool, dtype: mx.Dtype
) -> None:
    """Against float64: ``z_y - logsumexp(z)`` of capped logits, and its gradient by the chain."""
    rng = np.random.default_rng(0)
    weight, states = rng.normal(0, 1, (50, 6)), rng.normal(0, 6, (9, 6))
    wanted, scale = rng.integers(0, 50, 9), rng.normal(0, 1, 9)
    given = [mx.array(each).astype(dtype) for each in (weight, states)]
    weight, states = (np.array(each.astype(mx.float32)).astype(np.float64) for each in given)
    tanh = np.tanh(states @ weight.T / 20)
    z = 20 * tanh
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    logps = np.log(shares[np.arange(9), wanted])
    off = np.eye(50)[wanted] - shares
    gradient = scale[:, None] * ((off * (1 - tanh**2)) @ weight)

    def logits(x: mx.array) -> mx.array:
        assert x.dtype == dtype
        return 20 * mx.tanh(x @ given[0].T / 20)

    def ours(states: mx.array) -> mx.array:
        return lm_head.chunked_logprobs(
            logits, states, mx.array(wanted), 4, slopes=slopes, eager=eager
        )

    values, found = mx.vjp(ours, [given[1]], [mx.array(scale.astype(np.float32))])
    assert values[0].dtype == mx.float32 and found[0].dtype == dtype
    near = {"atol": 2e-5} if dtype == mx.float32 else {"atol": 0.25, "rtol": 0.05}
    np.testing.assert_allclose(np.array(values[0]), logps, **near)
    np.testing.assert_allclose(np.array(found[0].astype(mx.float32)), gradient, **near)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_its_backbone_and_its_head(name: str) -> None:
    model = archs.build(name)
    parts = lm_head.parts(model)
    assert parts is not None
    tokens = mx.array([[5, 9, 33, 120, 7]])
    hidden = parts.hidden(tokens, None)
    assert mx.array_equal(parts.logits(hidden), model(tokens))
    assert parts.vocabulary(hidden[0]) == archs.VOCAB


def test_a_model_whose_parts_cannot_be_told_apart_is_run_whole() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers: list[Any] = []

    assert lm_head.parts(Opaque()) is None


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("vocabulary", [2_000, 32_000])
def test_logits_stay_within_their_budget(vocabulary: int, slopes: bool) -> None:
    count, width, budget = 512, 16, 4 * 2**20
    weight = mx.random.normal((vocabulary, width))
    hidden = mx.random.normal((count, width))
    targets = mx.random.randint(0, vocabulary, (count,))
    mx.eval(weight, hidden, targets)
    rows = lm_head.chunk_rows(vocabulary, budget, eager=True)
    assert 1 < rows < count
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(
        lm_head.chunked_logprobs(
            lambda x: x @ weight.T, hidden, targets, rows, slopes=slopes, eager=True
        )
    )
    assert mx.get_peak_memory() - before < budget + 2**20


def test_forests_say_where_their_real_tokens_are() -> None:
    forest: Forest = plant(ragged(3))
    mask = np.array(forest.mask)
    np.testing.assert_array_equal(np.array(forest.real), np.flatnonzero(mask))
