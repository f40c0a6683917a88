"""``mipo doctor``: sizes told without weights, against the weights themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from lm import archs
from mipo_mlx.config import resolve
from mipo_mlx.errors import ModelError
from mipo_mlx.models.load import load_skeleton
from mipo_mlx.pipeline import doctor
from mipo_mlx.training.memory_model import Dimensions
from samples import head

QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}


def folder_of(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    archs.tokenizer_files(path)
    (path / "config.json").write_text(json.dumps(config))
    return path


def options(tmp_path: Path, **more: Any) -> Any:
    given = {
        "contexts": head("contexts_train.jsonl", 6, tmp_path),
        "prompts": head("prompts_train.jsonl", 5, tmp_path),
        "max_tokens": 20,
    }
    return resolve(flags={**given, **more})


@pytest.mark.parametrize("name", sorted(archs.KNOWN))
def test_a_skeleton_weighs_what_the_model_does(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", archs.arguments(name))
    real = sum(a.nbytes for a in dict(tree_flatten(archs.build(name).parameters())).values())
    before = mx.get_active_memory()
    skeleton = load_skeleton(str(folder))
    assert mx.get_active_memory() - before < 2**16  # nothing was computed
    assert skeleton.weights == real
    assert not skeleton.here


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_skeleton_weighs_what_the_model_does(bits: int, tmp_path: Path) -> None:
    config = archs.arguments("llama")
    how = {"group_size": 32, "bits": bits}
    folder = folder_of(tmp_path / "model", {**config, "quantization": how})
    model = load_skeleton(str(folder_of(tmp_path / "plain", config))).model
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, **how)
    real = sum(a.nbytes for a in dict(tree_flatten(model.parameters())).values())
    assert load_skeleton(str(folder)).weights == real


def test_a_model_of_seven_billion_is_weighed_before_anything_is_downloaded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", QWEN_7B)
    asked: list[dict[str, Any]] = []

    def download(name: str, **how: Any) -> str:
        asked.append(how)
        return str(folder)

    told = doctor.fits(
        options(tmp_path, model="owner/name", batch_size=4, memory_limit=64.0), download=download
    )
    assert asked and not any("safetensors" in p for how in asked for p in how["allow_patterns"])
    assert told["weights_bytes"] == pytest.approx(7.616e9 * 2, rel=1e-3)  # as its card says
    assert told["fits"] and not told["weights_here"]
    small = doctor.fits(options(tmp_path, model=str(folder), memory_limit=8.0))
    assert not small["fits"] and "smaller or quantized" in small["advice"]
    quantized = {**QWEN_7B, "quantization": {"group_size": 64, "bits": 4}}
    other = doctor.fits(
        options(tmp_path, model=str(folder_of(tmp_path / "4bit", quantized)), memory_limit=8.0)
    )
    assert other["weights_bytes"] == pytest.approx(7.616e9 * 0.5625, rel=5e-3)
    assert other["fits"]


def test_the_index_knows_the_bytes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", archs.arguments("llama"))
    index = {"metadata": {"total_size": 123_456}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_skeleton(str(folder)).weights == 123_456


def test_less_memory_means_a_leaner_plan(tmp_path: Path) -> None:
    wide = options(tmp_path, batch_size=16, memory_limit=4.0)
    roomy = doctor.fits(wide)
    assert (roomy["micro_batch_size"], roomy["gradient_checkpointing"]) == (16, False)
    limit = 0.55 * roomy["predicted_peak_bytes"] / 2**30
    tight = doctor.fits(options(tmp_path, batch_size=16, memory_limit=limit))
    assert tight["fits"]
    assert tight["micro_batch_size"] < 16 or tight["gradient_checkpointing"]


def test_an_unknown_kind_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", {"model_type": "no_such_model"})
    with pytest.raises(ModelError, match="cannot be opened"):
        doctor.fits(resolve(flags={"model": str(folder)}))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (QWEN_7B, Dimensions(3584, 28, 28, 4, 128, 18944, 152064, 2)),
        (
            {
                "text_config": {
                    "hidden_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "intermediate_size": 99,
                    "num_experts_per_tok": 2,
                    "moe_intermediate_size": 32,
                    "vocab_size": 10,
                }
            },
            Dimensions(64, 2, 4, 4, 16, 64, 10),
        ),
        (
            {**QWEN_7B, "torch_dtype": None, "quantization": {"group_size": 64, "bits": 4}},
            Dimensions(3584, 28, 28, 4, 128, 18944, 152064, 2),  # quantized: half precision
        ),
        (
            {"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": 7},
            Dimensions(48, 3, 4, 4, 12, 192, 7),
        ),
    ],
)
def test_dimensions_are_read_under_their_several_names(
    config: dict[str, Any], wanted: Dimensions
) -> None:
    assert Dimensions.of(config) == wanted


def test_this_machine_is_described() -> None:
    told = doctor.machine()
    assert told["versions"]["mlx"] == mx.__version__
    assert told["memory_bytes"] > 2**30
    assert doctor.matmul_rate(mx.float32, 0.05) > 1e8
