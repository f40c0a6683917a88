"""Attention with NumPy's exponentials, against float64 by the formula and MLX's own gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx.inference import attention, cores
from mipo_mlx.inference.attention import Part, attend, attend_and_back


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


def whole(k: np.ndarray, v: np.ndarray) -> list[Part]:
    return [Part(mx.array(k), mx.array(v))]


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
    wanted = formula(q, k, v, 0.3, bools)
    for function in (attend, attend_and_back):
        check(function(mx.array(q), whole(k, v), scale=0.3, mask=mask), wanted)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = draw(1, 2, 2, 4, 6)
    q *= 200
    found = attend(mx.array(q), whole(k, v), scale=1.0, mask="causal")
    causal = np.arange(2, 6)[:, None] >= np.arange(6)
    check(found, formula(q, k, v, 1.0, causal[None, None]))


OWNERS = {
    "one for all": [[0] * 6, [0, 0, 0, 1, 1, 1]],
    "pairs": [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]],  # the first is not regular
    "any order": [[1, 0, 1, 1, 0, 1], [2, 0, 1, 0, 1, 2]],
}


def forked(owners: Sequence[Sequence[int]], g: int) -> tuple[list[Part], list[np.ndarray]]:
    """Parts of 7 and 5 shared columns and 4 of each row's own; and the same joined."""
    rng = np.random.default_rng(2)
    b, d = len(owners[0]), 8
    parts, joined = [], []
    for width, owner in zip((7, 5, 4), (*owners, None), strict=True):
        n = b if owner is None else max(owner) + 1
        k, v = (rng.normal(0, 2, (n, g, width, size)).astype(np.float32) for size in (d, d + 2))
        rows = None if owner is None else mx.array(owner)
        parts.append(Part(mx.array(k), mx.array(v), rows))
        joined.append([a if owner is None else a[list(owner)] for a in (k, v)])
    return parts, [np.concatenate(side, axis=2) for side in zip(*joined, strict=True)]


@pytest.mark.parametrize("piece", [1 << 16, 20])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("h", "g"), [(2, 2), (6, 2)])
@pytest.mark.parametrize("kind", sorted(OWNERS))
def test_what_rows_share_is_read_where_it_lies(
    kind: str, h: int, g: int, masked: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.pieces, "__defaults__", (piece,))
    parts, (k, v) = forked(OWNERS[kind], g)
    b, rows = 6, 3
    q = draw(b, h, g, rows, 1)[0]
    seen = np.random.default_rng(3).random((b, 1, rows, 16)) < 0.6
    seen[:, :, 0, :7] = False  # a row to which a whole part is hidden
    seen[..., -1] = True
    mask = mx.array(seen) if masked else None
    wanted = formula(q, k, v, 0.4, seen if masked else None)
    for function in (attend, attend_and_back):
        check(function(mx.array(q), parts, scale=0.4, mask=mask), wanted)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", sorted(OWNERS))
def test_gradients_are_those_of_the_plain_formula(kind: str, masked: bool) -> None:
    h, g, b, rows = 6, 2, 6, 3
    parts, _ = forked(OWNERS[kind], g)
    seen = np.random.default_rng(3).random((b, 1, rows, 16)) < 0.6
    seen[:, :, 0, :7] = False
    seen[..., -1] = True
    mask = mx.array(seen) if masked else None
    weight = mx.array(np.random.default_rng(4).normal(0, 1, (b, h, rows, 10)).astype(np.float32))

    def ours(q: mx.array, *arrays: mx.array) -> mx.array:
        held = [
            Part(k, v, p.rows) for k, v, p in zip(arrays[::2], arrays[1::2], parts, strict=True)
        ]
        return (attend_and_back(q, held, scale=0.4, mask=mask) * weight).sum()

    def plain(q: mx.array, *arrays: mx.array) -> mx.array:
        sides = []
        for side in (arrays[::2], arrays[1::2]):
            wide = [a if p.rows is None else a[p.rows] for a, p in zip(side, parts, strict=True)]
            sides.append(mx.repeat(mx.concatenate(wide, axis=2), h // g, axis=1))
        scores = 0.4 * (q @ sides[0].swapaxes(-1, -2))
        if mask is not None:
            scores = mx.where(mask, scores, -mx.inf)
        return ((mx.softmax(scores, axis=-1) @ sides[1]) * weight).sum()

    arrays = [a for part in parts for a in (part.keys, part.values)]
    q = mx.array(draw(b, h, g, rows, 1)[0])
    every = list(range(1 + len(arrays)))
    value, found = mx.value_and_grad(ours, argnums=every)(q, *arrays)
    other, wanted = mx.value_and_grad(plain, argnums=every)(q, *arrays)
    assert value.item() == pytest.approx(other.item(), rel=1e-5)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.array(mine), np.array(theirs), atol=2e-5, rtol=2e-4)


def test_a_mask_of_another_shape_is_not_taken_for_the_last_one() -> None:
    q, k, v = draw(2, 2, 2, 5, 9)
    for columns in (9, 6):
        causal = np.arange(columns - 5, columns)[:, None] >= np.arange(columns)
        found = attend(
            mx.array(q), whole(k[:, :, :columns], v[:, :, :columns]), scale=1.0, mask="causal"
        )
        check(found, formula(q, k[:, :, :columns], v[:, :, :columns], 1.0, causal[None, None]))


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 5), (1, 9, 1, 2), (0, 3)])
def test_pieces_cover_an_array_once(shape: tuple[int, ...], size: int) -> None:
    counts = np.zeros(shape, dtype=int)
    for index in cores.pieces(shape, size):
        assert counts[index].size <= max(size, 1)
        counts[index] += 1
    assert (counts == 1).all()


def test_what_a_piece_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(index: tuple[Any, ...]) -> None:
        raise ZeroDivisionError(index)

    for count in (1, 3):
        monkeypatch.setattr(cores, "_cores", lambda count=count: count)
        with pytest.raises(ZeroDivisionError):
            cores.spread(work, [(0,), (1,), (2,)])
