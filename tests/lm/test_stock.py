"""What ``mipo train`` writes, of every kind, through stock mlx-lm: opened, and fused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.errors import ModelError
from mipo_mlx.models.load import LanguageModel, load_model
from mipo_mlx.pipeline import train

from . import archs

TOKENS = mx.array([[5, 9, 33, 120, 7, 250, 64, 31, 18, 4]])
OPTIONS = {"batch_size": 2, "learning_rate": 1e-2, "warmup": 0.0, "lora_rank": 4}
PAIRS = [
    ("Where do I live?", "In Delft.", "I cannot know that."),
    ("What is my dog called?", "Rex, as you wrote.", "You have none."),
    ("Tea or coffee?", "Tea.", "Coffee, black."),
    ("When do I rise?", "At six.", "Late."),
]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"fine_tune_type": "dora"},
}
BITS = (0, 4, 6, 8)  # of the base's weights; 0 is fp32
CASES = [(kind, bits) for kind in KINDS for bits in BITS if (kind, bits) != ("dora", 6)]


@dataclass(frozen=True)
class Trained:
    """A finished run: the folders of base and adapter, and logits [1, t, v] from before saving."""

    model: Path
    adapter: Path
    base: np.ndarray
    tuned: np.ndarray


def of_bits(folder: Path, bits: int) -> Path:
    """A random Llama in fp32, or what ``mlx_lm.convert`` makes of it."""
    from mlx_lm.convert import convert

    plain, made = folder / "0", folder / str(bits)
    if not plain.exists():
        archs.write(plain)
    if not made.exists():
        convert(str(plain), str(made), quantize=True, q_group_size=32, q_bits=bits)
    return made


def logits(model: Any) -> np.ndarray:
    """Of ``TOKENS`` [1, t, v]."""
    return np.array(model(TOKENS).astype(mx.float32))


def trained(model: Path, run: Path, kind: str) -> Trained:
    """Two steps of ``mipo train``; the model that it trained is kept to be looked at."""
    run.mkdir()
    path = run / "mine.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in PAIRS
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    kept: list[LanguageModel] = []

    def opening(*args: Any, **named: Any) -> LanguageModel:
        kept.append(load_model(*args, **named))
        return kept[-1]

    flags = {"model": str(model), "pairs": str(path), **OPTIONS, **KINDS[kind]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_model", opening)
        stats = pipeline.train.train(run, resolve(flags=flags))
    assert stats["optimizer_steps"] == 2
    (lm,) = kept
    return Trained(model, run / "adapter", logits(load_model(str(model)).model), logits(lm.model))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``runs(kind, bits)``, each trained once."""
    folder = tmp_path_factory.mktemp("stock")
    known: dict[tuple[str, int], Trained] = {}

    def run(kind: str, bits: int) -> Trained:
        if (kind, bits) not in known:
            model = of_bits(folder, bits)
            known[kind, bits] = trained(model, folder / f"{kind} {bits}", kind)
        return known[kind, bits]

    return run


def opened(folder: Path, adapter: Path | None = None) -> np.ndarray:
    """Logits of what stock mlx-lm makes of a folder."""
    from mlx_lm import load

    return logits(load(str(folder), adapter_path=str(adapter) if adapter else None)[0])


def fused(run: Trained, folder: Path, *flags: str) -> Path:
    """What the command ``mlx_lm.fuse`` writes."""
    from mlx_lm import fuse

    given = ["--model", run.model, "--adapter-path", run.adapter, "--save-path", folder, *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mlx_lm.fuse", *map(str, given)])
        fuse.main()
    return folder


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_stock_mlx_lm_opens_what_training_wrote_with_equal_logits(
    runs: Any, kind: str, bits: int
) -> None:
    run = runs(kind, bits)
    config = json.loads((run.model / "config.json").read_text())
    assert config.get("quantization", {}).get("bits", 0) == bits
    told = json.loads((run.adapter / "adapter_config.json").read_text())
    assert told["fine_tune_type"] == ("dora" if kind == "dora" else "lora")
    assert told["lora_parameters"]["scale"] == (10.0 if kind == "rslora" else 20.0)  # rank 4
    assert np.abs(run.tuned - run.base).max() > 0.1
    np.testing.assert_allclose(opened(run.model, run.adapter), run.tuned, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_fusing_keeps_the_logits(runs: Any, kind: str, bits: int, tmp_path: Path) -> None:
    run = runs(kind, bits)
    folder = fused(run, tmp_path / "fused", "--dequantize")
    assert "quantization" not in json.loads((folder / "config.json").read_text())
    np.testing.assert_allclose(opened(folder), run.tuned, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("kind", "bits"), [("lora", 4), ("lora", 8), ("dora", 4)])
def test_fusing_into_a_quantized_model_rounds_the_sum_anew(
    runs: Any, kind: str, bits: int, tmp_path: Path
) -> None:
    """Without ``--dequantize`` mlx-lm quantizes the sum again: logits are no longer ours."""
    run = runs(kind, bits)
    folder = fused(run, tmp_path / "fused")
    assert json.loads((folder / "config.json").read_text())["quantization"]["bits"] == bits
    assert np.abs(opened(folder) - run.tuned).max() > 1e-2


def test_dora_on_six_bits_is_refused_before_training(runs: Any, tmp_path: Path) -> None:
    """mlx-lm's own layer counts the inputs of six-bit weights wrong, so it can never run."""
    from mlx_lm.tuner.dora import DoRALinear

    model = runs("lora", 6).model
    base = load_model(str(model)).model.layers[0].self_attn.q_proj
    assert DoRALinear.from_base(base).lora_a.shape[0] == 60
    assert archs.arguments("llama")["hidden_size"] == 64
    with pytest.raises(ModelError, match="6 bits") as caught:
        trained(model, tmp_path / "run", "dora")
    assert "--fine-tune-type lora" in caught.value.hint
    assert not (tmp_path / "run" / "adapter").exists()
