"""A DPO step with the prompt forwarded once, against the same step on four full sequences.

``python benchmarks/train_step.py --shape tiny --prompt 512 --response 64``

Both run in one process, in turn; medians, their ratio and peak memory are printed. "naive" forwards
prompt and answer together, once for each answer, as trainers without sharing do; the reference is
precomputed in both, so it takes no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import mlx.nn as nn

from mipo_mlx.config import TrainConfig
from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.data.batch import EncodedPair
from mipo_mlx.lm.forest import sequence_logprobs
from mipo_mlx.objectives import Batch, TrainingRow, collate
from mipo_mlx.train import batch_loss

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 384,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1536},
    "qwen2.5-0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864,
                     "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936},
    "qwen2.5-1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960,
                     "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936},
    "qwen2.5-7b": {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944,
                   "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
}  # fmt: skip


def build(shape: str, dtype: mx.Dtype) -> nn.Module:
    """A random Qwen2 with LoRA on every linear layer."""
    from mlx_lm.models.qwen2 import Model, ModelArgs
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.random.seed(0)
    args = {"model_type": "qwen2", "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
    model: nn.Module = Model(ModelArgs.from_dict({**args, **SHAPES[shape]}))
    model.set_dtype(dtype)
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": 8, "scale": 20.0, "dropout": 0.0})
    mx.eval(model.parameters())
    model.train()
    return model


Work = tuple[Batch, mx.array, mx.array]  # ours; prompts [p, lp], responses [p, 1 + k, lr]


def make_work(
    pairs: int, context: int, prompt: int, response: int, negatives: int, vocabulary: int
) -> Work:
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
    return collate(rows), prompts, responses


def naive_logprobs(model: Any, prompts: mx.array, responses: mx.array) -> mx.array:
    """The same log-probs [p * k, 2], every answer of every pair behind a prompt of its own."""
    width, negatives = responses.shape[-1], responses.shape[1] - 1
    chosen = mx.repeat(responses[:, :1], negatives, axis=1)
    flat = mx.stack([chosen, responses[:, 1:]], axis=2).reshape(-1, width)
    tokens = mx.concatenate([mx.repeat(prompts, 2 * negatives, axis=0), flat], axis=1)
    logits = model(tokens[:, :-1])[:, -width:]
    return token_logprobs(logits, flat).sum(axis=-1).reshape(-1, 2)


def naive_loss(model: Any, work: Work, beta: float) -> mx.array:
    """The DPO loss over ``naive_logprobs``."""
    batch, prompts, responses = work
    margin = naive_logprobs(model, prompts, responses) - batch.reference
    return nn.softplus(-beta * (margin[:, 0] - margin[:, 1])).mean()


def shared_loss(model: Any, work: Work, beta: float) -> mx.array:
    """The product's own loss."""
    return batch_loss(model, work[0], TrainConfig(beta=beta))[0] / work[0].sides.shape[0]


def timed(model: nn.Module, loss: Callable[..., mx.array], work: Work) -> tuple[float, int]:
    """Seconds and peak bytes of one forward and backward pass."""
    mx.synchronize()
    mx.reset_peak_memory()
    start = time.perf_counter()
    mx.eval(nn.value_and_grad(model, loss)(model, work, 0.1))
    mx.synchronize()
    return time.perf_counter() - start, mx.get_peak_memory()


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--context", type=int, default=0, help="tokens that all prompts share")
    parser.add_argument("--prompt", type=int, default=512, help="tokens after the context")
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    model = build(args.shape, getattr(mx, args.dtype))
    lengths = (args.pairs, args.context, args.prompt, args.response, args.negatives)
    work = make_work(*lengths, SHAPES[args.shape]["vocab_size"])
    shared = sequence_logprobs(model, work[0].forest)[work[0].sides]
    gap = mx.abs(shared - naive_logprobs(model, *work[1:])).max().item()
    seconds: dict[str, list[float]] = {"naive": [], "shared": []}
    peaks: dict[str, int] = {}
    for turn in range(args.rounds + 1):  # the first round warms up
        for name, loss in (("naive", naive_loss), ("shared", shared_loss)):
            took, peaks[name] = timed(model, loss, work)
            if turn:
                seconds[name].append(took)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        **vars(args),
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "largest_logprob_gap": gap,
        "median_seconds": medians,
        "peak_bytes": peaks,
        "speedup": medians["naive"] / medians["shared"],
        "memory_ratio": peaks["naive"] / peaks["shared"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
