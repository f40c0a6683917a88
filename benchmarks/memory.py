"""Predicted against measured peak memory of a training step, over random shapes.

``python benchmarks/memory.py --draws 10 --seed 7``

Each draw is a random Llama with LoRA on all linear layers and a random batch: widths, blocks,
heads, vocabulary, stems, prompts, answers, ragged lengths; whole, checkpointed, and with prompts in
pieces and half of the pairs at once.
``--fit`` fits the coefficients of ``training/memory_model.py`` to the draws instead (SciPy).
``--sweep`` shows how the peak goes with the context's length and with the vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.memory_model import Bunch, Coefficients, Dimensions, Geometry, step_bytes
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
    stem = rng.choice([0, 0, 64, 200, 400, 600])
    rest, answer = rng.randint(4, 80 if stem else 300), rng.randint(8, 96)
    pairs, answers = rng.choice([1, 2, 4, 6, 8]), rng.choice([2, 2, 2, 3, 4])

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(count))

    shared = ids(stem)
    rows = [
        Row(
            shared + ids(max(2, rest - rng.randint(0, rest // 3))),
            tuple(ids(answer - rng.randint(0, answer // 2)) for _ in range(answers)),
            "all" if stem else "",
        )
        for _ in range(pairs)
    ]
    return Draw(of, rows, rng.choice([32, 64, 256]) * 2**20)


def build(of: Dimensions, seed: int = 0) -> Any:
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
    """Peak bytes of a step's gradient, weights and batch included; the larger of two runs."""
    lm = LanguageModel(model, None, None, "", "", None)  # type: ignore[arg-type]
    gradients, rows, peaks = Gradients(lm, CONFIG, plan), training(one), []
    for _ in range(2):
        gc.collect()
        mx.clear_cache()
        mx.reset_peak_memory()
        found = gradients(rows)
        mx.eval(found[1])
        peaks.append(mx.get_peak_memory())
        del found
    return max(peaks)


def measured(seed: int, draws: int) -> Iterator[tuple[Draw, int, Plan, int]]:
    """Draws with bytes of weights, how their steps were taken, and their peaks."""
    rng = random.Random(seed)
    for index in range(draws):
        one = draw(rng)
        model = build(one.of, index)
        weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        for plan in plans(one):
            yield one, weights, plan, measure(model, one, plan)


def predicted(one: Draw, weights: int, plan: Plan, by: Coefficients | None = None) -> int:
    """Peak bytes, weights included."""
    return weights + max(
        step_bytes(shape, one.of, budget=one.budget, recompute=plan.recompute, by=by)
        for shape in one.shapes(plan)
    )


def fitted(found: list[tuple[Draw, int, Plan, int]]) -> Coefficients:
    """Coefficients with the least relative error, outliers damped."""
    from scipy.optimize import least_squares

    lazy = ("hidden", "heads", "gate", "shares", "keys")  # of whole steps elsewhere; as they are
    names = [item.name for item in fields(Coefficients) if item.name not in lazy]

    def errors(values: Any) -> Any:
        by = Coefficients(**dict(zip(names, map(float, values), strict=True)))
        return [np.log(predicted(d, w, p, by) / peak) for d, w, p, peak in found]

    start = [asdict(Coefficients())[name] for name in names]
    best = least_squares(errors, start, bounds=(0, 60), loss="soft_l1", f_scale=0.05)
    return Coefficients(**{n: round(float(v), 2) for n, v in zip(names, best.x, strict=True)})


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
    parser.add_argument("--fit", action="store_true", help="fit the coefficients to the draws")
    parser.add_argument("--sweep", action="store_true", help="over context and vocabulary instead")
    args = parser.parse_args()
    if mx.default_device() == mx.Device(mx.cpu):
        mx.disable_compile()
    if args.sweep:
        sweep()
        return
    found = []
    for one, weights, plan, peak in measured(args.seed, args.draws):
        found.append((one, weights, plan, peak))
        guess = predicted(one, weights, plan)
        told = {**asdict(one.of), "plan": str(plan), "predicted": guess, "measured": peak}
        print(json.dumps({**told, "error": round(guess / peak - 1, 3)}), flush=True)
    if args.fit:
        print(json.dumps(asdict(fitted(found))))
    errors = [abs(predicted(d, w, p) / peak - 1) for d, w, p, peak in found]
    print(json.dumps({"n": len(errors), "largest_error": max(errors)}))


if __name__ == "__main__":
    main()
