"""Blocks that drop their activations: gradients of odd blocks, and a model that stays as it was."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import linear_to_lora_layers

from mipo_mlx.inference.checkpointing import recomputed
from mipo_mlx.inference.prefix_tree import Row, plant
from mipo_mlx.training.gradients import loss_gradient

from . import archs
from .test_forest import SMALL, ragged, relative, with_lora
from .test_gradient import by_pieces, contrast

SOME = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"]


def with_stock_caches(model: Any, rows: list[Row]) -> mx.array:
    """Every response one at a time [r], by mlx-lm's own caches."""
    found = []
    for row in rows:
        for side in row.responses:
            tokens, wanted = mx.array([[*row.prompt_ids, *side]]), mx.array(list(side))
            logits = model(tokens[:, :-1], cache=make_prompt_cache(model)).astype(mx.float32)
            logps = nn.log_softmax(logits[0, len(row.prompt_ids) - 1 :], axis=-1)
            found.append(mx.take_along_axis(logps, wanted[:, None], axis=-1).sum())
    return mx.stack(found)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", sorted(archs.CACHED))
def test_gradients_of_layers_that_read_another_layers_cache(name: str, recompute: bool) -> None:
    model = archs.build(name)
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": SOME})
    archs.randomize_lora(model)
    rows = ragged(2)

    def loss(model: Any) -> tuple[mx.array, mx.array]:
        value, told = contrast(with_stock_caches(model, rows))
        return value, told["margin"]

    (_, margin), wanted = nn.value_and_grad(model.train(), loss)(model)
    told, grads = loss_gradient(model, plant(rows), contrast, budget=SMALL, recompute=recompute)
    np.testing.assert_allclose(np.array(told["margin"]), np.array(margin), atol=2e-4)
    assert relative(grads, wanted) < 1e-5
    _, grads = by_pieces(model, rows, [], 5, budget=SMALL, recompute=recompute)
    assert relative(grads, wanted) < 1e-5


class Block(nn.Module):
    """Takes and returns nests; the same array comes back three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scalar, self.calls = nn.Linear(4, 4), mx.ones((1,)), 0

    def __call__(self, x: mx.array, pair: Any = None, *, more: Any = None) -> Any:
        self.calls += 1
        other = x if pair is None else pair[0]
        y = mx.tanh(self.layer(x) + 0.5 * mx.sin(other)) * self.scalar
        return y, (y, {"same": y, "odd": y > 0}), 7 if more is None else more["n"]


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [Block(), Block(), Block()]

    def __call__(self, x: mx.array) -> mx.array:
        pair: Any = None
        for place, layer in enumerate(self.layers):
            x, (again, told), count = layer(x, pair, more={"n": place})
            assert count == place
            pair = (again * told["same"], None)
        return (x + pair[0] * told["odd"]).sum()


def test_nests_and_arrays_returned_twice_keep_their_gradients() -> None:
    mx.random.seed(0)
    model, x = Blocks(), mx.random.normal((3, 4))

    def value(model: Any, x: mx.array) -> mx.array:
        found: mx.array = model(x)
        return found

    wanted = [nn.value_and_grad(model, value)(model, x), mx.grad(value, argnums=1)(model, x)]
    before = [layer.calls for layer in model.layers]
    with recomputed(model):
        found = [nn.value_and_grad(model, value)(model, x), mx.grad(value, argnums=1)(model, x)]
    assert [b.calls - a for a, b in zip(before, model.layers, strict=True)] == [4, 4, 4]
    assert found[0][0].item() == pytest.approx(wanted[0][0].item(), rel=1e-6)
    assert relative(found[0][1], wanted[0][1]) < 1e-6
    np.testing.assert_allclose(np.array(found[1]), np.array(wanted[1]), rtol=1e-5)


def test_the_model_keeps_its_modules_names_and_weights() -> None:
    model, other = with_lora("llama"), with_lora("llama")
    kinds = [type(layer) for layer in model.layers]
    names = [name for name, _ in tree_flatten(model.trainable_parameters())]
    weights = [np.array(array) for _, array in tree_flatten(model.trainable_parameters())]
    layers = list(model.layers)
    with pytest.raises(RuntimeError), recomputed(model):
        assert all(mine is theirs for mine, theirs in zip(model.layers, layers, strict=True))
        assert all(isinstance(a, kind) for a, kind in zip(model.layers, kinds, strict=True))
        assert [name for name, _ in tree_flatten(model.trainable_parameters())] == names
        assert [type(layer) for layer in other.layers] == kinds
        assert [type(layer) for layer in model.layers] != kinds
        raise RuntimeError
    assert [type(layer) for layer in model.layers] == kinds
    loss_gradient(model.train(), plant(ragged(2)), contrast, budget=SMALL, recompute=True)
    assert [type(layer) for layer in model.layers] == kinds
    for (_, array), was in zip(tree_flatten(model.trainable_parameters()), weights, strict=True):
        np.testing.assert_array_equal(np.array(array), was)


class Odd(nn.Module):
    """Gives back what it is given, or a set of it, which is no nest that can be seen into."""

    def __init__(self, wrap: bool) -> None:
        super().__init__()
        self.wrap = wrap

    def __call__(self, x: Any) -> Any:
        return {7} if self.wrap else x


def test_what_may_hide_arrays_is_run_plainly_or_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [Odd(False), Odd(True)]

    strange = {8}
    with recomputed(model := Model()):
        assert model.layers[0](strange) is strange
        with pytest.raises(TypeError, match="set, which cannot be checkpointed"):
            model.layers[1](mx.ones((2,)))
