"""Tiny random models of the architectures that are supported, and a byte-level chat tokenizer."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from mipo_mlx.models.load import LanguageModel, load_model

VOCAB = 320

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
}
_SLIDING: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 6,
}

# name -> (module of mlx_lm.models, arguments beyond the common ones)
ARCHS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3_rope": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8, "tie_word_embeddings": False, "rope_theta": 10_000.0}),
    "mistral": ("llama", {**_SLIDING, "tie_word_embeddings": False}),
    "ministral3": (
        "ministral3",
        {
            **_SLIDING,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_theta": 10_000.0,
                "rope_type": "default",
                "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "gemma2": ("gemma2", {"head_dim": 8}),
    "gemma3_text": (
        "gemma3_text",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 6,
            "sliding_window_pattern": 2,
        },
    ),
    "phi3": ("phi3", {}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "olmo2": ("olmo2", {}),
}


_GEMMA4: dict[str, Any] = {  # its blocks return keys and values
    "num_hidden_layers": 4,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 6,
    "sliding_window_pattern": 2,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
}
_GEMMA4_MOE: dict[str, Any] = {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}

# gradients alone are checked on these: scaled and tied heads, mixtures of experts, parallel blocks,
# keys that are values too, layers that read another layer's keys
MORE_ARCHS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "gemma": ("gemma", {"head_dim": 8}),
    "granite": (
        "granite",
        {
            "logits_scaling": 4.0,
            "attention_multiplier": 0.3,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_bias": False,
            "mlp_bias": False,
            "rope_theta": 10_000.0,
        },
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": 32,
            "head_dim": 8,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
            "norm_topk_prob": True,
        },
    ),
    "gemma4_shared": (
        "gemma4_text",
        {
            **_GEMMA4,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": VOCAB,
        },
    ),
    "gemma4_k_eq_v": (
        "gemma4_text",
        {**_GEMMA4, **_GEMMA4_MOE, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
    ),
    "stablelm": (
        "stablelm",
        {
            "rope_theta": 10_000.0,
            "use_qkv_bias": True,
            "partial_rotary_factor": 0.5,
            "layer_norm_eps": 1e-5,
        },
    ),
    "starcoder2": ("starcoder2", {"norm_epsilon": 1e-5, "rope_theta": 10_000.0}),
}


# layers that keep a state other than keys and values
HYBRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": (
        "mamba",
        {
            "state_size": 4,
            "conv_kernel": 3,
            "use_bias": False,
            "use_conv_bias": True,
            "time_step_rank": 4,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_conv_kernel_dim": 3,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "decoder_sparse_step": 1,
            "shared_expert_intermediate_size": 32,
            "mlp_only_layers": [],
            "moe_intermediate_size": 32,
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
            "head_dim": 8,
            "full_attention_interval": 2,
        },
    ),
    "lfm2": (
        "lfm2",
        {
            "norm_eps": 1e-5,
            "conv_bias": False,
            "conv_L_cache": 3,
            "block_dim": 32,
            "block_ff_dim": 64,
            "block_multiple_of": 8,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
            "full_attn_idxs": [1],
            "rope_theta": 10_000.0,
        },
    ),
}

# layers that read another layer's cache; without a cache mlx-lm gives them keys of their own
CACHED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": (
        "gemma3n",
        {
            "text_config": {
                **_COMMON,
                "num_hidden_layers": 6,
                "head_dim": 8,
                "num_kv_shared_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"] * 3,
                "sliding_window": 6,
                "model_type": "gemma3n_text",
                "vocab_size_per_layer_input": VOCAB,
                "hidden_size_per_layer_input": 16,
                "rope_local_base_freq": 10_000.0,
                "rope_theta": 1e6,
                "final_logit_softcapping": 30.0,
                "activation_sparsity_pattern": [0.5, 0.0] * 3,
                "altup_num_inputs": 3,
                "altup_coef_clip": 120.0,
                "altup_correct_scale": True,
                "altup_active_idx": 0,
                "laurel_rank": 4,
            }
        },
    ),
}
KNOWN = {**ARCHS, **MORE_ARCHS, **HYBRIDS}
_ALL = {**KNOWN, **CACHED}


def arguments(name: str) -> dict[str, Any]:
    """``config.json`` of an architecture, only what its ``ModelArgs`` knows."""
    module, extra = _ALL[name]
    kind = importlib.import_module(f"mlx_lm.models.{module}").ModelArgs
    known = {field.name for field in dataclasses.fields(kind)}
    given = {**_COMMON, **extra, "model_type": module}
    return {key: value for key, value in given.items() if key in known}


def build(name: str, seed: int = 0) -> Any:
    """A random model in fp32 with weights large enough that the next token is far from uniform."""
    module = importlib.import_module(f"mlx_lm.models.{_ALL[name][0]}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(arguments(name)))
    model.update(
        tree_map(lambda array: array + 0.15 * mx.random.normal(array.shape), model.parameters())
    )
    mx.eval(model.parameters())
    return model.eval()


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
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(build(name).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = {**arguments(name), "eos_token_id": ends}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_files(folder, template)
    return folder


def opened(folder: Path, name: str = "llama", template: str | None = CHATML) -> LanguageModel:
    """``write`` and ``load_model`` in one."""
    return load_model(str(write(folder, name, template)))
