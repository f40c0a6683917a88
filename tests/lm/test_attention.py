"""Attention with NumPy's exponentials, against float64 by the formula and against MLX's own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx.lm import attention
from mipo_mlx.lm.attention import attend, quick_attention
from mipo_mlx.lm.forest import Row
from mipo_mlx.lm.load import LanguageModel
from mipo_mlx.lm.score import score


def draw(b: int, h: int, g: int, rows: int, columns: int, d: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(b, h, rows, d), (b, g, columns, d), (b, g, columns, d + 2)]
    return [rng.normal(0, 2, shape).astype(np.float32) for shape in shapes]


def formula(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, seen: np.ndarray | None
) -> np.ndarray:
    """In float64, heads repeated, nothing clever."""
    each = q.shape[1] // k.shape[1]
    wide = [np.repeat(a.astype(np.float64), each, axis=1) for a in (k, v)]
    scores = scale * np.einsum("bhld,bhsd->bhls", q.astype(np.float64), wide[0])
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray(np.einsum("bhls,bhse->bhle", weights, wide[1]))


def check(found: mx.array, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found), wanted, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("chunk", [1 << 30, 3000])
@pytest.mark.parametrize(("h", "g"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("kind", ["none", "causal", "rows", "window", "heads"])
def test_it_is_the_formula(
    kind: str, h: int, g: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CHUNK_BYTES", chunk)
    b, rows, columns = 3, 11, 29
    q, k, v = draw(b, h, g, rows, columns)
    place = np.arange(columns - rows, columns)[:, None]
    causal = place >= np.arange(columns)
    seen: dict[str, np.ndarray | None] = {
        "none": None,
        "causal": causal[None, None],
        "rows": causal & (np.arange(columns) >= np.array([0, 4, 9])[:, None, None, None]),
        "window": (causal & (np.arange(columns) > place - 5))[None, None],
        "heads": causal & (np.random.default_rng(1).random((b, h, rows, columns)) < 0.7),
    }
    bools = seen[kind]
    if bools is not None:
        bools = bools.copy()
        bools[..., np.arange(rows), place[:, 0]] = True  # everybody sees at least itself
    mask: Any = kind if kind == "causal" else None if bools is None else mx.array(bools)
    found = attend(mx.array(q), mx.array(k), mx.array(v), scale=0.3, mask=mask)
    check(found, formula(q, k, v, 0.3, bools))


def test_large_scores_do_not_overflow() -> None:
    q, k, v = draw(1, 2, 2, 4, 6)
    q *= 200
    found = attend(mx.array(q), mx.array(k), mx.array(v), scale=1.0, mask="causal")
    causal = np.arange(2, 6)[:, None] >= np.arange(6)
    check(found, formula(q, k, v, 1.0, causal[None, None]))


def test_it_steps_aside_where_it_is_not_exact_or_does_not_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mx.default_device() != mx.Device(mx.cpu):
        pytest.skip("nothing changes on a GPU")
    calls: list[Any] = []
    monkeypatch.setattr(attention, "attend", lambda *_, **how: calls.append(how["mask"]))
    q, k, _ = (mx.array(a) for a in draw(1, 4, 4, 80, 120))
    half = [a.astype(mx.float16) for a in (q, k)]
    own: Any = mx.fast.scaled_dot_product_attention
    added = mx.zeros((80, 120))
    with quick_attention():
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
            assert mx.array_equal(found, own(*given, scale=0.5, **how))
        assert len(calls) == 3
    assert mx.fast.scaled_dot_product_attention is own
    with pytest.raises(RuntimeError), quick_attention():
        raise RuntimeError
    assert mx.fast.scaled_dot_product_attention is own


def test_scores_are_those_of_the_models_own_attention(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, 250, count))

    head = ids(60)
    rows = [Row(head + ids(1 + n), (ids(9), ids(3 + n)), "a") for n in range(6)]
    monkeypatch.setattr(attention, "FEWEST", 1)
    quick = np.array(list(score(lm, rows)))
    monkeypatch.setattr(attention, "FEWEST", 1 << 60)
    plain = np.array(list(score(lm, rows)))
    np.testing.assert_allclose(quick, plain, atol=1e-4)
    assert not np.array_equal(quick, plain)  # it was another way
