"""The gradient of a DPO step, shared and bounded, against the same on full sequences.

``python benchmarks/train_step.py --model llama-256x6 --preset S2``

All run in one process, in turn; medians, ratios and peak memory (weights included) are printed, and
how far the gradients are apart. "naive" forwards prompt and answer together, once for each answer,
with the logits of every response position at once; "ours" is what ``mipo train`` does where there
is memory; "pieces" is ours with prompts by 256 tokens, two pairs at once, and 16 MiB for logits;
"lean" is ours checkpointed, pair by pair where there is no context to share, with as much for
logits. The reference is precomputed in all, so it takes no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mipo_mlx.config import TrainConfig
from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference import lm_head
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.pipeline.doctor import matmul_rate
from mipo_mlx.training.collate import Batch, TrainingRow, collate
from mipo_mlx.training.trainer import Trainer

MODELS: dict[str, dict[str, Any]] = {
    "llama-256x6": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32000},
    "smollm2-8": {"hidden_size": 576, "num_hidden_layers": 8, "intermediate_size": 1536,
                  "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
    "tiny": {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 384,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1536},
    "qwen2.5-0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864,
                     "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936},
    "qwen2.5-1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960,
                     "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936},
    "qwen2.5-7b": {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944,
                   "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
}  # fmt: skip
# tokens of a context that all pairs share, of a question, of a response; pairs; negatives
PRESETS = {
    "S1": (0, 64, 64, 4, 1),
    "S2": (0, 512, 64, 4, 1),
    "S3": (1024, 32, 64, 8, 1),
    "S4": (1024, 32, 64, 8, 4),
}


def build(shape: str, dtype: mx.Dtype) -> nn.Module:
    """A random Qwen2 with LoRA on every linear layer."""
    from mlx_lm.models.qwen2 import Model, ModelArgs
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.random.seed(0)
    args = {"model_type": "qwen2", "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
    model: nn.Module = Model(ModelArgs.from_dict({**args, **MODELS[shape]}))
    model.set_dtype(dtype)
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": 8, "scale": 20.0, "dropout": 0.0})
    mx.eval(model.parameters())
    model.train()
    return model


BETA = 0.1
Work = tuple[Batch, mx.array, mx.array]  # ours; prompts [p, lp], responses [p, 1 + k, lr]


def make_work(
    pairs: int, context: int, prompt: int, response: int, negatives: int, vocabulary: int
) -> tuple[Work, list[TrainingRow]]:
    """Random tokens without padding; the reference is far off, so the gradient is not zero."""
    shared = mx.repeat(mx.random.randint(0, vocabulary, (1, context)), pairs, axis=0)
    prompts = mx.concatenate([shared, mx.random.randint(0, vocabulary, (pairs, prompt))], axis=1)
    responses = mx.random.randint(0, vocabulary, (pairs, 1 + negatives, response))
    rows = [
        TrainingRow(
            EncodedPair(
                f"{i}/{k}", tuple(ids), (tuple(sides[0]), tuple(side)), "c" * bool(context)
            ),
            (0.0, 0.0),
        )
        for i, (ids, sides) in enumerate(zip(prompts.tolist(), responses.tolist(), strict=True))  # type: ignore[call-overload, arg-type]
        for k, side in enumerate(sides[1:])
    ]
    return (collate(rows), prompts, responses), rows


def naive_logprobs(model: Any, prompts: mx.array, responses: mx.array) -> mx.array:
    """The same log-probs [p * k, 2], every answer of every pair behind a prompt of its own."""
    width, negatives = responses.shape[-1], responses.shape[1] - 1
    chosen = mx.repeat(responses[:, :1], negatives, axis=1)
    flat = mx.stack([chosen, responses[:, 1:]], axis=2).reshape(-1, width)
    tokens = mx.concatenate([mx.repeat(prompts, 2 * negatives, axis=0), flat], axis=1)
    logits = model(tokens[:, :-1])[:, -width:]
    return token_logprobs(logits, flat).sum(axis=-1).reshape(-1, 2)


def naive_step(model: Any, work: Work) -> Any:
    """Gradient of the mean DPO loss over ``naive_logprobs``."""
    batch, prompts, responses = work

    def loss(model: Any) -> mx.array:
        margin = naive_logprobs(model, prompts, responses) - batch.reference
        return nn.softplus(-BETA * (margin[:, 0] - margin[:, 1])).mean()

    return nn.value_and_grad(model, loss)(model)[1]


def our_step(model: Any, rows: list[TrainingRow], config: TrainConfig) -> Any:
    """The same by the product's own trainer."""
    return Trainer(
        LanguageModel(model, None, Path("."), "", "", None), rows, config, seed=0
    ).gradient(rows)[1]


def distance(one: Any, other: Any) -> float:
    """Relative L2 distance of two gradients."""
    mine, theirs = dict(tree_flatten(one)), dict(tree_flatten(other))
    gap = sum(((mine[name] - theirs[name]) ** 2).sum().item() for name in theirs)
    return float((gap / sum((array**2).sum().item() for array in theirs.values())) ** 0.5)


def least_flops(model: Any, rows: list[TrainingRow]) -> float:
    """Of blocks and head, forward and back, every token once; attention scores aside."""
    blocks = sum(
        module.weight.size
        for layer in model.layers
        for _, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    )
    vocabulary, hidden = model.model.embed_tokens.weight.shape
    forest = collate(rows).forest
    tokens = forest.stem_lengths.sum().item() + forest.branch_lengths.sum().item()
    answers = forest.real.size
    return 4.0 * (blocks * (tokens + answers) + vocabulary * hidden * answers)


def timed(step: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds and peak bytes of one forward and backward pass, and its gradient."""
    mx.synchronize()
    mx.reset_peak_memory()
    start = time.perf_counter()
    grads = step()
    mx.eval(grads)
    mx.synchronize()
    return time.perf_counter() - start, mx.get_peak_memory(), grads


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="tiny")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="a shape; the next five are void")
    parser.add_argument("--context", type=int, default=0, help="tokens that all prompts share")
    parser.add_argument("--prompt", type=int, default=512, help="tokens after the context")
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--negatives", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--roofline", action="store_true", help="share of the matmul rate")
    parser.add_argument("--lazy", action="store_true", help="the path of a GPU, wherever it runs")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    if args.preset:
        names = ("context", "prompt", "response", "pairs", "negatives")
        vars(args).update(zip(names, PRESETS[args.preset], strict=True))
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    if args.lazy:
        mock.patch.object(lm_head, "on_cpu", lambda: False).start()
    model = build(args.model, getattr(mx, args.dtype))
    vocabulary = MODELS[args.model]["vocab_size"]
    shape = (args.pairs, args.context, args.prompt, args.response, args.negatives)
    work, rows = make_work(*shape, vocabulary)
    compiled = not args.lazy or mx.default_device() != mx.Device(mx.cpu)
    ours = TrainConfig(beta=BETA, batch_size=len(rows), compile=compiled)
    lean = replace(
        ours,
        gradient_checkpointing=True,
        logits_memory=1 / 64,
        micro_batch_size=0 if args.context else 1,
    )
    pieces = replace(ours, micro_batch_size=2, prompt_piece=256, logits_memory=1 / 64)
    steps: dict[str, Callable[[], Any]] = {
        "naive": lambda: naive_step(model, work),
        "ours": lambda: our_step(model, rows, ours),
        "pieces": lambda: our_step(model, rows, pieces),
        "lean": lambda: our_step(model, rows, lean),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, int] = {}
    gradients: dict[str, Any] = {}
    for turn in range(args.rounds + 1):  # the first round warms up
        for name, step in steps.items():
            took, peaks[name], found = timed(step)
            if turn:
                seconds[name].append(took)
            else:
                gradients[name] = found
    errors = {name: distance(gradients.pop(name), gradients["naive"]) for name in list(steps)[1:]}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result: dict[str, Any] = {
        **vars(args),
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "gradient_error": errors,
        "median_seconds": medians,
        "peak_bytes": peaks,
        "speedup": {name: medians["naive"] / medians[name] for name in errors},
        "memory_ratio": {name: peaks["naive"] / peaks[name] for name in errors},
    }
    if args.roofline:
        flops, rate = least_flops(model, rows), matmul_rate(getattr(mx, args.dtype))
        result["matmul_flops_per_second"] = rate
        result["share_of_matmul_rate"] = {
            name: flops / took / rate for name, took in medians.items()
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
