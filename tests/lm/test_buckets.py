"""Rounded widths say the same, and so does the compiled step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import plant
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training import compile
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.compile import padded, rounded
from mipo_mlx.training.gradients import loss_gradient
from mipo_mlx.training.step import Gradients

from .test_forest import SMALL, ragged, relative, with_lora
from .test_gradient import contrast


def test_counts_are_rounded_up_to_few() -> None:
    seen = [rounded(count) for count in range(5000)]
    assert seen[0] == 0
    for count, found in enumerate(seen[1:], 1):
        assert count <= found <= max(16, 1.25 * count + 16)
    assert len(set(seen)) < 40
    assert all(rounded(found) == found for found in seen)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_padding_changes_neither_log_probs_nor_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_lora(name).train()
    forest = plant(ragged(2))
    wanted, gradient = loss_gradient(model, forest, contrast, budget=SMALL, recompute=False)
    monkeypatch.setattr(lm_head, "on_cpu", lambda: False)
    wide = padded(forest)
    assert wide.responses.shape != forest.responses.shape
    for budget in (0, SMALL):
        told, grads = loss_gradient(model, wide, contrast, budget=budget, recompute=True)
        np.testing.assert_allclose(np.array(told["margin"]), np.array(wanted["margin"]), atol=2e-4)
        assert relative(grads, gradient) < 1e-5


def rows(seed: int, longest: int = 8) -> list[TrainingRow]:
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, 200, rng.integers(low, high)))

    return [
        TrainingRow(
            EncodedPair(str(i), ids(4, 12), (ids(2, longest), ids(2, longest))), (-9.0, -8.0)
        )
        for i in range(2)
    ]


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU: the lazy path, and MLX's compiler on."""
    if shutil.which("g++") is None:
        pytest.skip("MLX compiles with g++ on a CPU, and there is none")
    monkeypatch.setattr(lm_head, "on_cpu", lambda: False)
    mx.enable_compile()
    yield
    mx.disable_compile()


@pytest.mark.slow
def test_a_compiled_step_follows_the_adapter_and_the_shapes(
    compiling: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile, "MOST", 1)
    model = with_lora("llama").train()
    lm = LanguageModel(model, None, Path("."), "", "", None)
    config = TrainConfig(batch_size=2)
    quick = Gradients(lm, config)
    slow = Gradients(lm, replace(config, compile=False))
    assert quick.compiled is not None and slow.compiled is None
    for seed in (1, 2, 3):
        work = rows(seed, 8 if seed < 3 else 40)  # the third is of another shape
        told, grads = quick(work)
        wanted, gradient = slow(work)
        assert told == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert relative(grads, gradient) < 1e-5
        changed = model.layers[0].self_attn.q_proj
        changed.lora_b = changed.lora_b + 0.1 * seed
        mx.eval(model.parameters())
    assert len(quick.compiled.shapes) == 1


def test_on_a_cpu_nothing_is_compiled() -> None:
    lm = LanguageModel(with_lora("llama"), None, Path("."), "", "", None)
    assert Gradients(lm, TrainConfig()).compiled is None
