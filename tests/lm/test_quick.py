"""What NumPy does in MLX's place on a CPU: the same numbers and slopes, and only while asked."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mipo_mlx.inference import quick as module
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.quick import quick
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="nothing changes on a GPU"
)

OWN: dict[str, Any] = {
    "attention": mx.fast.scaled_dot_product_attention,
    "sigmoid": mx.sigmoid,
    "tanh": mx.tanh,
}


def now() -> dict[str, Any]:
    return {
        "attention": mx.fast.scaled_dot_product_attention,
        "sigmoid": mx.sigmoid,
        "tanh": mx.tanh,
    }


def test_sigmoid_and_tanh_with_their_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 1)
    x = np.array([-1e4, -90, -20, -1.5, -1e-3, 0, 1e-3, 0.7, 15, 90, 1e4], dtype=np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-wide))
    wanted = {
        "sigmoid": (sigmoid, sigmoid * (1 - sigmoid)),
        "tanh": (np.tanh(wide), 1 - np.tanh(wide) ** 2),
    }
    for name, (value, slope) in wanted.items():
        with quick(gradient=True):
            function: Any = getattr(mx, name)
            assert function is not OWN[name]
            found = function(mx.array(x))
            (grad,) = mx.vjp(function, [mx.array(x)], [mx.ones(x.shape)])[1]
        np.testing.assert_allclose(np.array(found), value, atol=1e-7)
        np.testing.assert_allclose(np.array(grad), slope, atol=2e-7)
        with quick():
            np.testing.assert_allclose(np.array(getattr(mx, name)(mx.array(x))), value, atol=1e-7)


def test_activations_of_models_go_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 1)
    x = mx.random.normal((5, 40))
    for function in (nn.silu, nn.gelu_approx, nn.gelu_fast_approx):
        slope = mx.grad(lambda x, function=function: (function(x) * mx.arange(40)).sum())
        plain = [function(x), slope(x)]
        with quick(gradient=True):
            found = [function(x), slope(x)]
        for mine, theirs in zip(found, plain, strict=True):
            np.testing.assert_allclose(np.array(mine), np.array(theirs), atol=3e-5)


def test_it_steps_aside_where_it_is_not_exact_or_does_not_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(module, "attend", lambda *_, **how: calls.append(how["mask"]))
    rng = np.random.default_rng(0)
    q, k = (mx.array(rng.normal(0, 1, (1, 4, n, 8)).astype(np.float32)) for n in (80, 120))
    half = [a.astype(mx.float16) for a in (q, k)]
    added = mx.zeros((80, 120))
    with quick():
        fast: Any = mx.fast.scaled_dot_product_attention
        fast(q, k, k, scale=1.0)
        fast(q, k, k, scale=1.0, mask="causal")
        fast(q, k, k, scale=1.0, mask=added == 0)
        assert len(calls) == 3
        for given, how in (
            ((half[0], half[1], half[1]), {}),
            ((q, k, k), {"mask": added}),
            ((q, k, k), {"sinks": mx.zeros((4,))}),
            ((q[:, :, :2], k, k), {}),
        ):
            found = fast(*given, scale=0.5, **how)
            assert mx.array_equal(found, OWN["attention"](*given, scale=0.5, **how))
        assert len(calls) == 3
        assert mx.sigmoid(half[0]).dtype == mx.float16
        assert mx.sigmoid(0.0).item() == 0.5


def test_mlx_is_as_it_was_afterwards() -> None:
    with quick(), quick(gradient=True):
        assert all(now()[name] is not own for name, own in OWN.items())
    assert now() == OWN
    with pytest.raises(RuntimeError), quick():
        raise RuntimeError
    assert now() == OWN
    assert not module.by_parts()


def test_other_threads_are_left_alone() -> None:
    """Another thread may be tracing or compiling; it gets MLX's own."""
    seen: list[bool] = []

    def other() -> None:
        mx.set_default_device(mx.cpu)
        seen.append(module.by_parts())
        with quick():
            seen.append(module.by_parts())

    with quick(gradient=True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert all(now()[name] is not own for name, own in OWN.items())
        assert module.by_parts()
    assert seen == [False, True]
    assert now() == OWN


def test_scores_are_those_of_the_models_own_attention(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, 250, count))

    head = ids(60)
    rows = [Row(head + ids(1 + n), (ids(9), ids(3 + n)), "a") for n in range(6)]
    monkeypatch.setattr(module, "FEWEST", 1)
    monkeypatch.setattr(module, "FEW", 1)
    found = np.array(list(score(lm, rows)))
    monkeypatch.setattr(module, "FEWEST", 1 << 60)
    monkeypatch.setattr(module, "FEW", 1 << 60)
    plain = np.array(list(score(lm, rows)))
    np.testing.assert_allclose(found, plain, atol=1e-4)
    assert not np.array_equal(found, plain)  # it was another way
