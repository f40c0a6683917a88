"""Sampling for pairs, against mlx-lm's own ``batch_generate`` and ``generate``.

``python benchmarks/generate.py --shape many-prompts``

Equal work: an answer of exactly ``--tokens`` tokens at temperature 1 for every (user, prompt), from
a random Llama whose end-of-turn token is never drawn. Ours samples each answer once, because it
serves as chosen for its own user and as rejected for another; the others sample two a pair, as a
pair's two halves are usually made. All run in one process, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import numpy as np

from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.models.load import LanguageModel

# users, prompts a user, tokens of a context
SHAPES = {
    "many-prompts": (16, 32, 512),
    "one-user": (1, 40, 2048),
    "many-users": (200, 8, 64),
    "small": (4, 8, 128),
}
QUESTION = 24  # tokens
MODELS: dict[str, dict[str, Any]] = {
    "llama-256x6": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 32000},
    "smollm2-135m": {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536,
                     "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
}  # fmt: skip


class NoEnd:
    """As much of a tokenizer as sampling asks for: it never ends a turn, and decodes to nothing."""

    eos_token_id = None
    eos_token_ids: frozenset[int] = frozenset()
    bos_token = None

    def decode(self, ids: Any, **_: Any) -> str:
        return ""


def build(name: str) -> LanguageModel:
    """A random Llama in fp32."""
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(0)
    args = {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    model = Model(ModelArgs.from_dict({**args, **MODELS[name]}))
    mx.eval(model.parameters())
    return LanguageModel(model.eval(), NoEnd(), Path("."), name, "", None)


def make_jobs(users: int, prompts: int, context: int, vocabulary: int) -> list[Job]:
    """Random contexts; the same questions for every user."""
    rng = np.random.default_rng(0)
    asked = rng.integers(10, vocabulary, (prompts, QUESTION)).tolist()
    jobs = []
    for user in range(users):
        known = rng.integers(10, vocabulary, context).tolist()
        jobs += [
            Job(f"{user}/{index}", tuple(known + question), str(user))
            for index, question in enumerate(asked)
        ]
    return jobs


def ours(lm: LanguageModel, jobs: list[Job], tokens: int) -> int:
    """Answers sampled once; returns pairs made."""
    return sum(1 for _ in respond(lm, jobs, Sampling(max_tokens=tokens)))


def batched(lm: LanguageModel, jobs: list[Job], tokens: int) -> int:
    """``mlx_lm.batch_generate`` on full prompts, two answers a pair."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.sample_utils import make_sampler

    twice = [list(job.prompt_ids) for job in jobs for _ in range(2)]
    generator = BatchGenerator(lm.model, max_tokens=tokens, sampler=make_sampler(temp=1.0))
    left = set(generator.insert(twice))
    while left:
        for response in generator.next_generated():
            if response.finish_reason is not None:
                left.discard(response.uid)
    generator.close()
    return len(jobs)


def single(lm: LanguageModel, jobs: list[Job], tokens: int) -> int:
    """``generate_step`` for one answer after the other, two a pair."""
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler

    sampler = make_sampler(temp=1.0)
    for job in jobs:
        for _ in range(2):
            steps = generate_step(
                mx.array(job.prompt_ids), lm.model, max_tokens=tokens, sampler=sampler
            )
            for _ in steps:
                pass
    return len(jobs)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--model", choices=sorted(MODELS), default="llama-256x6")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--users", type=int, default=0, help="of the shape; 0 is all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--single-pairs", type=int, default=2, help="pairs of the slowest rival")
    parser.add_argument(
        "--rival-pairs", type=int, default=0, help="pairs of batch_generate; 0 is all"
    )
    args = parser.parse_args()
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    lm = build(args.model)
    users, prompts, context = SHAPES[args.shape]
    users = min(users, args.users or users)
    jobs = make_jobs(users, prompts, context, MODELS[args.model]["vocab_size"])
    work: dict[str, tuple[Callable[..., int], list[Job]]] = {
        "ours": (ours, jobs),
        "batch_generate": (batched, jobs[: args.rival_pairs or len(jobs)]),
        "generate": (single, jobs[: args.single_pairs]),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    peaks: dict[str, int] = {}
    for _ in range(args.rounds):
        for name, (function, part) in work.items():
            mx.clear_cache()
            mx.reset_peak_memory()
            start = time.perf_counter()
            pairs = function(lm, part, args.tokens)
            rates[name].append(pairs / (time.perf_counter() - start))
            peaks[name] = mx.get_peak_memory()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    tally = Tally()
    for _ in respond(lm, jobs, Sampling(max_tokens=1), tally):
        pass
    result = {
        **vars(args),
        "users_prompts_context": (users, prompts, context),
        "prompt_tokens": asdict(tally),
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "median_pairs_per_second": medians,
        "peak_bytes": peaks,
        "against_batch_generate": medians["ours"] / medians["batch_generate"],
        "against_generate": medians["ours"] / medians["generate"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
