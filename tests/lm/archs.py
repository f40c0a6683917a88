"""Tiny random models of the architectures that are supported, and a byte-level chat tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from mipo_mlx.models.load import LanguageModel, load_model

from .zoo import COMMON, save
from .zoo import arguments as arguments
from .zoo import build as build

VOCAB = COMMON["vocab_size"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# every test of shared prompts
ARCHS = (
    "gemma2",
    "gemma3_text",
    "llama",
    "llama3_rope",
    "ministral3",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
# gradients alone are checked on these: scaled and tied heads, mixtures of experts, parallel blocks
MORE_ARCHS = (
    "cohere",
    "gemma",
    "gemma4_k_eq_v",
    "gemma4_text",
    "granite",
    "qwen3_moe",
    "stablelm",
    "starcoder2",
)
# layers that keep a state other than keys and values
HYBRIDS = ("lfm2", "mamba", "qwen3_next")
# layers that read another layer's cache; without a cache mlx-lm gives them keys of their own
CACHED = ("gemma3n",)
KNOWN = (*ARCHS, *MORE_ARCHS, *HYBRIDS)


def randomize_lora(model: Any, seed: int = 1) -> None:
    """Give every LoRA factor noise, so that the adapter matters."""
    mx.random.seed(seed)
    noisy = tree_map(
        lambda array: array + 0.05 * mx.random.normal(array.shape), model.trainable_parameters()
    )
    model.update(noisy)
    mx.eval(model.parameters())


def tokenizer_files(
    folder: Path,
    template: str | None = CHATML,
    special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    eos: str = "<|im_end|>",
    bos: str | None = None,
) -> None:
    """A byte-level tokenizer of 256 bytes and the special tokens, which come first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "pad_token": special[0],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    if bos is not None:
        config["bos_token"] = bos
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write(
    folder: Path,
    name: str = "llama",
    template: str | None = CHATML,
    ends: int | list[int] = 2,
) -> Path:
    """A model folder that stock mlx-lm opens; ``ends`` are the tokens that end a turn."""
    save(folder, name, ends=ends)
    tokenizer_files(folder, template)
    return folder


def opened(folder: Path, name: str = "llama", template: str | None = CHATML) -> LanguageModel:
    """``write`` and ``load_model`` in one."""
    return load_model(str(write(folder, name, template)))
