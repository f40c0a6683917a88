"""Predicted against measured peak memory of a training step, over random shapes.

``python benchmarks/memory.py --draws 10 --seed 7``

Each draw is a random Llama with LoRA on all linear layers and a random batch: widths, blocks,
heads, vocabulary, stems, prompts, answers, ragged lengths; whole, checkpointed, and with prompts in
pieces and half of the pairs at once.
``--dtype`` is what the model computes in; "4bit" has quantized weights and computes in bf16.
``--path gpu`` takes the step as a GPU takes it, on whatever device: one lazy graph, widths rounded
up; only attention is not fused then. ``--path cpu`` as a CPU does.
``--shapes small`` draws shapes that half precision, slow on a CPU, can take.
``--fit`` fits the coefficients of ``training/memory_model.py`` to the draws instead (SciPy).
``--sweep`` shows how the peak goes with the context's length and with the vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from unittest import mock

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference import lm_head
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.memory_model import (
    FULL,
    HALF,
    Bunch,
    Coefficients,
    Dimensions,
    Geometry,
    step_bytes,
)
from mipo_mlx.training.memory_plan import PIECE, Plan, cut
from mipo_mlx.training.step import Gradients


@dataclass
class Draw:
    """A model's dimensions, the rows of a batch and bytes for logits."""

    of: Dimensions
    rows: list[Row]
    budget: int
    known: dict[Plan, list[Geometry | Bunch]] = field(default_factory=dict)

    def shapes(self, plan: Plan) -> list[Geometry | Bunch]:
        """What is forwarded together."""
        if plan not in self.known:
            self.known[plan], _ = cut([training(self)], plan, False, True)
        return self.known[plan]


# what is fitted of the coefficients on each path; the rest is the other's
FITTED = {
    "gpu": (
        *("hidden", "heads", "gate", "shares", "keys", "token", "score", "head", "state", "held"),
        *("again_token", "again_score", "again", "logit"),
    ),
    "cpu": ("eager_token", "eager_shares", "eager_keys"),
}


def small(rng: random.Random) -> Draw:
    """Shapes that half precision can take on a CPU, where it is slow."""
    head_dim, heads = rng.choice([16, 32, 64]), rng.choice([2, 4, 6])
    hidden = rng.choice([64, 128, 192])
    vocabulary = rng.choice([500, 1000, 2000])
    of = Dimensions(
        hidden=hidden,
        layers=rng.randint(2, 4),
        heads=heads,
        kv_heads=rng.choice([n for n in (1, 2, heads) if heads % n == 0]),
        head_dim=head_dim,
        intermediate=64 * int(hidden * rng.choice([1.5, 2, 3, 4, 5.5]) / 64),
        vocabulary=vocabulary,
    )
    rows = batch(rng, vocabulary, [0, 0, 64, 150, 300], [1, 2, 4], most=(100, 48))
    return Draw(of, rows, rng.choice([1, 2, 16]) * 2**20)


def draw(rng: random.Random) -> Draw:
    """Any shape that a small machine can take."""
    head_dim, heads = rng.choice([32, 64, 128]), rng.choice([2, 4, 6, 8])
    hidden = min(head_dim * heads, 768) if rng.random() < 0.7 else rng.choice([128, 256, 384, 512])
    vocabulary = rng.choice([2000, 8000, 16_000, 32_000])
    of = Dimensions(
        hidden=hidden,
        layers=rng.randint(2, 8),
        heads=heads,
        kv_heads=rng.choice([n for n in (1, 2, heads) if heads % n == 0]),
        head_dim=head_dim,
        intermediate=int(hidden * rng.choice([1.5, 2, 2.7, 3, 4])),
        vocabulary=vocabulary,
    )
    rows = batch(rng, vocabulary, [0, 0, 64, 200, 400, 600], [1, 2, 4, 6, 8])
    return Draw(of, rows, rng.choice([32, 64, 256]) * 2**20)


def batch(
    rng: random.Random,
    vocabulary: int,
    stems: list[int],
    counts: list[int],
    most: tuple[int, int] = (300, 96),
) -> list[Row]:
    """Ragged rows of random tokens, prompts and answers of at most so many."""
    stem = rng.choice(stems)
    rest, answer = rng.randint(4, min(80, most[0]) if stem else most[0]), rng.randint(8, most[1])
    pairs, answers = rng.choice(counts), rng.choice([2, 2, 2, 3, 4])

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(count))

    shared = ids(stem)
    return [
        Row(
            shared + ids(max(2, rest - rng.randint(0, rest // 3))),
            tuple(ids(answer - rng.randint(0, answer // 2)) for _ in range(answers)),
            "all" if stem else "",
        )
        for _ in range(pairs)
    ]


def build(of: Dimensions, seed: int = 0, dtype: str = "fp32") -> Any:
    """A random Llama with LoRA on every linear layer, ready to be trained."""
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.random.seed(seed)
    known = {
        "model_type": "llama",
        "hidden_size": of.hidden,
        "num_hidden_layers": of.layers,
        "intermediate_size": of.intermediate,
        "num_attention_heads": of.heads,
        "num_key_value_heads": of.kv_heads,
        "head_dim": of.head_dim,
        "vocab_size": of.vocabulary,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    model = Model(ModelArgs.from_dict(known))
    if dtype != "fp32":
        model.set_dtype(mx.bfloat16)
    if dtype == "4bit":
        nn.quantize(
            model,
            group_size=64,
            bits=4,
            class_predicate=lambda _, m: (
                hasattr(m, "to_quantized") and m.weight.shape[-1] % 64 == 0
            ),
        )
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": 8, "scale": 20.0, "dropout": 0.0})
    mx.eval(model.parameters())
    return model.train()


def plans(one: Draw) -> list[Plan]:
    """Ways to take its step."""
    count = len(one.rows)
    return [
        Plan(count, False, one.budget),
        Plan(count, True, one.budget),
        Plan(max(1, count // 2), False, one.budget, piece=PIECE),
    ]


def training(one: Draw) -> list[TrainingRow]:
    """Its rows, as a loss of many rejected answers takes them."""
    return [
        TrainingRow(
            EncodedPair(str(index), row.prompt_ids, row.responses, row.group),
            (0.0,) * len(row.responses),
        )
        for index, row in enumerate(one.rows)
    ]


CONFIG = TrainConfig(loss="mipo")


def measure(model: Any, one: Draw, plan: Plan) -> int:
    """Peak bytes of a step's gradient, weights and batch included.

    The larger of two runs in fp32, of one in half precision, which takes long.
    """
    lm = LanguageModel(model, None, None, "", "", None)  # type: ignore[arg-type]
    gradients, rows, peaks = Gradients(lm, CONFIG, plan), training(one), []
    for _ in range(2 if one.of.itemsize == 4 else 1):
        gc.collect()
        mx.clear_cache()
        mx.reset_peak_memory()
        found = gradients(rows)
        mx.eval(found[1])
        peaks.append(mx.get_peak_memory())
        del found
    return max(peaks)


def measured(args: argparse.Namespace) -> Iterator[tuple[Draw, int, Plan, int]]:
    """Draws, bytes of weights with two gradients, how a step was taken, and its peak."""
    rng = random.Random(args.seed)
    for index in range(args.draws):
        one = small(rng) if args.shapes == "small" else draw(rng)
        if args.dtype != "fp32":
            one.of = replace(one.of, itemsize=2)
        model = build(one.of, index, args.dtype)
        weights, trained = (
            sum(array.nbytes for _, array in tree_flatten(tree))
            for tree in (model.parameters(), model.trainable_parameters())
        )
        for plan in plans(one):
            yield one, weights + 2 * trained, plan, measure(model, one, plan)


def predicted(one: Draw, weights: int, plan: Plan, by: Coefficients | None = None) -> int:
    """Peak bytes, ``weights`` included."""
    return weights + max(
        step_bytes(shape, one.of, budget=one.budget, recompute=plan.recompute, by=by)
        for shape in one.shapes(plan)
    )


def fitted(found: list[tuple[Draw, int, Plan, int]], path: str) -> Coefficients:
    """Coefficients with the least relative error of the step's own bytes, outliers damped."""
    from scipy.optimize import least_squares

    names = FITTED[path]
    base = FULL if found[0][0].of.itemsize == 4 else HALF

    def errors(values: Any) -> Any:
        by = replace(base, **dict(zip(names, map(float, values), strict=True)))
        return [
            np.log((predicted(d, w, p, by) - 0.8 * w) / (peak - 0.8 * w)) for d, w, p, peak in found
        ]

    starts = np.array([[asdict(base)[name] for name in names]] * 6)
    starts[1:] *= np.random.default_rng(0).uniform(0.3, 3.0, starts[1:].shape)
    tried = [
        least_squares(errors, start + 0.01, bounds=(0, 60), loss="soft_l1", f_scale=0.05)
        for start in starts
    ]
    best = min(tried, key=lambda each: float(each.cost))
    return replace(base, **{n: round(float(v), 2) for n, v in zip(names, best.x, strict=True)})


def sweep() -> None:
    """Peaks by length of context, and by vocabulary, without weights."""
    rng = random.Random(0)
    base = Dimensions(256, 6, 4, 2, 64, 768, 32_000)
    cases = [(base, stem) for stem in (256, 512, 1024, 2048)]
    wide = Dimensions(256, 6, 4, 2, 64, 768, 256_000)
    for of, stem in [*cases, (wide, 256), (wide, 512)]:
        model = build(of)
        weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        shared = tuple(rng.randrange(3, of.vocabulary) for _ in range(stem))
        rows = [
            Row((*shared, 5 + i, 9), tuple(tuple(range(9 + i, 73 + i)) for i in range(2)), "all")
            for i in range(4)
        ]
        one = Draw(of, rows, 64 * 2**20)
        for plan in plans(one):
            peak = measure(model, one, plan)
            told = {"vocabulary": of.vocabulary, "context": stem, "plan": str(plan)}
            print(json.dumps({**told, "step_bytes": peak - weights, "weights": weights}))


def main() -> None:
    """Measure and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dtype", choices=("fp32", "bf16", "4bit"), default="fp32")
    parser.add_argument("--path", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--shapes", choices=("any", "small"), default="any")
    parser.add_argument("--fit", action="store_true", help="fit the coefficients to the draws")
    parser.add_argument("--sweep", action="store_true", help="over context and vocabulary instead")
    args = parser.parse_args()
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    with mock.patch.object(lm_head, "on_cpu", lambda: args.path == "cpu"):
        sweep() if args.sweep else compare(args)


def compare(args: argparse.Namespace) -> None:
    """Predicted against measured, a line a step; then the fit, if it is asked for."""
    found = []
    for one, weights, plan, peak in measured(args):
        found.append((one, weights, plan, peak))
        guess = predicted(one, weights, plan)
        told = {**asdict(one.of), "plan": str(plan), "weights": weights}
        told |= {"predicted": guess, "measured": peak, "error": round(guess / peak - 1, 3)}
        print(json.dumps(told), flush=True)
    if args.fit:
        by = fitted(found, args.path)
        print(json.dumps(asdict(by)))
        errors = [predicted(d, w, p, by) / peak - 1 for d, w, p, peak in found]
        print(json.dumps({"fitted": True, "errors": [round(e, 3) for e in errors]}))
    errors = [abs(predicted(d, w, p) / peak - 1) for d, w, p, peak in found]
    print(json.dumps({"n": len(errors), "largest_error": max(errors)}))


if __name__ == "__main__":
    main()
