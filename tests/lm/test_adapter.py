"""LoRA folders that stock mlx-lm opens, and a base that comes back bit for bit."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mipo_mlx.errors import ModelError
from mipo_mlx.models import lora
from mipo_mlx.models.load import LanguageModel, load_model

from . import archs

TOKENS = mx.array([[5, 9, 33, 120, 7, 250, 64, 31, 18, 4]])
SETTINGS = {"rank": 4, "scale": 20.0, "num_layers": -1}


def attach(lm: LanguageModel, seed: int = 0, num_layers: int = -1) -> lora.Shape:
    return lora.attach(lm, rank=4, scale=20.0, num_layers=num_layers, seed=seed)


def save(lm: LanguageModel, folder: Path, shape: lora.Shape) -> None:
    lora.save(lm, folder, shape, extra={"note": "ours"})


@pytest.mark.parametrize("name", sorted(archs.ARCHS))
def test_stock_mlx_lm_opens_what_is_saved_with_equal_logits(name: str, tmp_path: Path) -> None:
    from mlx_lm import load

    lm = archs.opened(tmp_path / "model", name)
    base = lm.model(TOKENS)
    shape = attach(lm)
    archs.randomize_lora(lm.model)
    save(lm, tmp_path / "adapter", shape)
    wanted = lm.model(TOKENS)
    assert float(mx.abs(wanted - base).max()) > 1e-2
    stock, _ = load(str(tmp_path / "model"), adapter_path=str(tmp_path / "adapter"))[:2]
    np.testing.assert_allclose(np.array(stock(TOKENS)), np.array(wanted), atol=1e-6)
    ours = load_model(str(tmp_path / "model"), adapter_path=tmp_path / "adapter")
    assert mx.array_equal(ours.model(TOKENS), wanted)
    assert ours.fingerprint == lm.fingerprint


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3"])
def test_a_disabled_adapter_is_the_base_bit_for_bit(name: str, tmp_path: Path) -> None:
    lm = archs.opened(tmp_path / name, name)
    base = lm.model(TOKENS)
    attach(lm)
    archs.randomize_lora(lm.model)
    tuned = lm.model(TOKENS)
    with lora.adapter_disabled(lm):
        assert mx.array_equal(lm.model(TOKENS), base)
    assert mx.array_equal(lm.model(TOKENS), tuned)
    assert not mx.array_equal(tuned, base)
    lora.detach(lm)
    assert mx.array_equal(lm.model(TOKENS), base)
    assert not any("lora" in leaf for leaf, _ in tree_flatten(lm.model.parameters()))


def test_scales_come_back_after_an_error(lm: LanguageModel) -> None:
    attach(lm)
    archs.randomize_lora(lm.model)
    tuned = lm.model(TOKENS)
    with pytest.raises(RuntimeError, match="inside"), lora.adapter_disabled(lm):
        raise RuntimeError("inside")
    assert mx.array_equal(lm.model(TOKENS), tuned)


def test_attach_freezes_the_base_changes_no_output_and_is_seeded(
    lm: LanguageModel, llama_folder: Path
) -> None:
    base = lm.model(TOKENS)
    shape = attach(lm, seed=3)
    assert "self_attn.q_proj" in shape.keys
    assert "mlp.down_proj" in shape.keys
    assert mx.array_equal(lm.model(TOKENS), base)
    first = dict(tree_flatten(lm.model.trainable_parameters()))
    assert first
    assert all(name.endswith((".lora_a", ".lora_b")) for name in first)
    assert len(first) == 2 * 7 * 2
    again, other = load_model(str(llama_folder)), load_model(str(llama_folder))
    attach(again, seed=3)
    attach(other, seed=4)
    same = dict(tree_flatten(again.model.trainable_parameters()))
    differs = dict(tree_flatten(other.model.trainable_parameters()))
    assert all(mx.array_equal(same[name], first[name]) for name in first)
    assert any(not mx.array_equal(differs[name], first[name]) for name in first)


def test_the_last_blocks_only(lm: LanguageModel, tmp_path: Path, llama_folder: Path) -> None:
    shape = attach(lm, num_layers=1)
    names = [name for name, _ in tree_flatten(lm.model.trainable_parameters())]
    assert names
    assert all(name.startswith("model.layers.1.") for name in names)
    archs.randomize_lora(lm.model)
    save(lm, tmp_path / "adapter", shape)
    opened = load_model(str(llama_folder), adapter_path=tmp_path / "adapter")
    assert mx.array_equal(opened.model(TOKENS), lm.model(TOKENS))


def test_files_are_private_whole_and_keep_their_provenance(
    lm: LanguageModel, tmp_path: Path
) -> None:
    shape = attach(lm)
    folder = tmp_path / "deep" / "adapter"
    save(lm, folder, shape)
    save(lm, folder, shape)
    assert sorted(path.name for path in folder.iterdir()) == [lora.CONFIG, lora.WEIGHTS]
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = json.loads((folder / lora.CONFIG).read_text())
    assert config["fine_tune_type"] == "lora"
    assert config["note"] == "ours"
    assert config["lora_parameters"] == {
        "rank": 4,
        "scale": 20.0,
        "dropout": 0.0,
        "keys": list(shape.keys),
    }


def test_a_second_adapter_is_refused(lm: LanguageModel) -> None:
    attach(lm)
    with pytest.raises(ModelError, match="already"):
        attach(lm)


def test_an_adapter_that_does_not_fit_is_an_error(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_model(str(llama_folder), adapter_path=tmp_path / "nowhere")
    lm = archs.opened(tmp_path / "phi3", "phi3")
    save(lm, tmp_path / "adapter", attach(lm))
    with pytest.raises(ModelError, match="adapter"):
        load_model(str(llama_folder), adapter_path=tmp_path / "adapter")


def test_quantized_models_take_lora_too(lm: LanguageModel) -> None:
    import mlx.nn as nn

    nn.quantize(lm.model, group_size=32, bits=8, class_predicate=_by_32)
    base = lm.model(TOKENS)
    shape = attach(lm)
    assert "self_attn.q_proj" in shape.keys
    archs.randomize_lora(lm.model)
    assert not mx.array_equal(lm.model(TOKENS), base)
    with lora.adapter_disabled(lm):
        assert mx.array_equal(lm.model(TOKENS), base)


def _by_32(_: str, module: object) -> bool:
    weight = getattr(module, "weight", None)
    return hasattr(module, "to_quantized") and weight is not None and weight.shape[-1] % 32 == 0


def test_layers_whose_weights_a_model_reads_by_itself_carry_no_lora(tmp_path: Path) -> None:
    """Gemma 3n clips two of its matrices in its forward pass."""
    lm = archs.opened(tmp_path / "model", "gemma3n")
    shape = lora.attach(lm, rank=4, scale=2.0, num_layers=-1, seed=0)
    names = {key.rpartition(".")[2] for key in shape.keys}
    assert not names & {"prediction_coefs", "correction_coefs"}
    assert {"q_proj", "down_proj", "modality_router"} <= names
    assert lm.model(mx.array([[5, 6]])).shape == (1, 2, archs.VOCAB)
    lora.detach(lm)
    with pytest.raises(ModelError, match="reads weights of prediction_coefs"):
        lora.attach(
            lm, rank=4, scale=2.0, num_layers=-1, seed=0, modules=["q_proj", "prediction_coefs"]
        )


def test_a_class_that_cannot_be_frozen_is_refused(tmp_path: Path) -> None:
    lm = archs.opened(tmp_path / "model", "recurrent_gemma")
    with pytest.raises(ModelError, match="cannot be trained"):
        lora.attach(lm, rank=4, scale=2.0, num_layers=-1, seed=0)
