"""Make the embedded model: ``python -m mipo_mlx.tiny.pretrain --out DIR --seed 0``.

Loss on response tokens only, most of all on those that carry a fact, a digit or a letter, in the
stages of ``dialogues``: direct questions, so that copying forms; then sums and choices with them;
then the mixture the base is judged on. Last, a polish with a fresh optimizer at a lower rate;
``--start`` does it alone, on a folder made with ``--polish 0``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mipo_mlx.grading.final_answer import final_answer
from mipo_mlx.tiny import words, world
from mipo_mlx.tiny.dialogues import POLISH, render, turn
from mipo_mlx.types import Prompt, Response

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PAYLOAD = 4.0  # weight of a token that carries a fact, a digit or a letter
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def make_tokenizer(folder: Path, seed: int) -> Any:
    """Byte-level BPE trained on the world, digits apart, saved in the transformers format."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(f"tokenizer:{seed}")
    texts = ["".join(render(turn(rng, 1 + index % 3))) for index in range(8000)]
    texts += [f" {word} {word}" for group in words.VALUES.values() for word in group] * 20
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    fast.model_max_length = CONFIG["max_position_embeddings"]
    fast.save_pretrained(str(folder))
    return fast


Batch = tuple[mx.array, mx.array, mx.array]


def payload(tokenizer: Any) -> np.ndarray:
    """Which tokens carry a fact, a digit or a letter to choose, bool [vocabulary]."""
    values = [f" {value}" for group in words.VALUES.values() for value in group]
    letters = [f" {letter}" for letter in world.LETTERS]
    found = np.zeros(len(tokenizer), bool)
    for text in [*values, *letters, *"0123456789"]:
        found[tokenizer.encode(text, add_special_tokens=False)] = True
    return found


def batches(tokenizer: Any, rng: random.Random, stage: int, rows: int) -> Iterator[Batch]:
    """Endless right-padded tokens [rows, t]; places [n] of response tokens; weights [n]."""
    heavy = payload(tokenizer)
    while True:
        pool = []
        for sample in (turn(rng, stage) for _ in range(rows * 8)):
            parts = [tokenizer.encode(p, add_special_tokens=False) for p in render(sample)]
            marks = [index % 2 for index, part in enumerate(parts) for _ in part]
            pool.append(([token for part in parts for token in part], marks))
        pool.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(pool), rows))
        rng.shuffle(starts)
        for start in starts:
            part = pool[start : start + rows]
            width = len(part[-1][0])
            tokens = np.zeros((rows, width), np.int32)
            mask = np.zeros((rows, width), bool)
            for index, (row, marks) in enumerate(part):
                tokens[index, : len(row)] = row
                mask[index, : len(row)] = marks
            places = np.flatnonzero(mask)
            weights = np.where(heavy[tokens.reshape(-1)[places]], PAYLOAD, 1.0)
            yield mx.array(tokens), mx.array(places), mx.array(weights.astype(np.float32))


def build(vocabulary: int, seed: int) -> nn.Module:
    """A random Llama of the embedded shape."""
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(seed)
    model: nn.Module = Model(ModelArgs.from_dict({**CONFIG, "vocab_size": vocabulary}))
    mx.eval(model.parameters())
    return model


def loss_fn(model: Any, tokens: mx.array, places: mx.array, weights: mx.array) -> mx.array:
    """Weighted mean cross-entropy of the response tokens, nats.

    ``places`` [n] are flat positions in ``tokens`` [rows, t] of response tokens; the head is
    applied to the hidden states just before them only.
    """
    hidden = model.model(tokens[:, :-1])
    before = places - places // tokens.shape[1] - 1
    logits = model.model.embed_tokens.as_linear(hidden.reshape(-1, hidden.shape[-1])[before])
    losses = nn.losses.cross_entropy(logits, tokens.reshape(-1)[places])
    return (losses * weights).sum() / weights.sum()


def fit(
    model: nn.Module,
    tokenizer: Any,
    seed: int,
    plan: Sequence[tuple[int, int]],
    rows: int,
    peak: float,
) -> None:
    """Stages with their steps, under one cosine schedule; prints the loss."""
    total = sum(count for _, count in plan)
    schedule = optim.join_schedules(
        [
            optim.linear_schedule(0.0, peak, 50),
            optim.cosine_decay(peak, max(1, total - 50), 0.02 * peak),
        ],
        [50],
    )
    optimizer = optim.AdamW(learning_rate=schedule, betas=[0.9, 0.98], weight_decay=0.01)
    grad = nn.value_and_grad(model, loss_fn)
    start, step, recent = time.perf_counter(), 0, list[float]()
    for stage, count in plan:
        width = 2 * rows if stage == 1 else rows  # its dialogues are short
        source = batches(tokenizer, random.Random(f"stage:{stage}:{seed}"), stage, width)
        for _ in range(count):
            loss, grads = grad(model, *next(source))
            grads, _ = optim.clip_grad_norm(grads, 1.0)
            optimizer.update(model, grads)
            mx.eval(loss, model.parameters(), optimizer.state)
            recent.append(loss.item())
            step += 1
            if step % 50 == 0:
                mean, seconds = sum(recent) / len(recent), time.perf_counter() - start
                print(
                    f"stage {stage} step {step}/{total} loss {mean:.4f} {seconds:.0f} s", flush=True
                )
                recent.clear()


def save(model: nn.Module, folder: Path, vocabulary: int) -> None:
    """Weights and config in the form stock ``mlx_lm.load`` opens."""
    from mlx.utils import tree_flatten

    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = {**CONFIG, "vocab_size": vocabulary, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def write_samples(folder: Path) -> None:
    """The sample contexts, prompts and problems that ship in the package."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, each, held in (("train", 192, 384, False), ("heldout", 64, 256, True)):
        users = world.make_users(count, 1000 + held, held_out=held)
        rows: dict[str, list[dict[str, Any]]] = {
            "contexts": [
                {"id": f"{name}-{u.id}", "text": world.write_context(u, 7), "facts": u.facts}
                for u in users
            ],
            "prompts": [{"id": r.id, "text": r.text} for r in world.requests(held_out=held)],
            "problems": [
                {"id": f"{name}-{p.id}", "text": p.text, "answer": p.answer, "kind": p.kind}
                for maker in (world.word_problems, world.choices)
                for p in maker(each, 1000 + held, held_out=held)
            ],
        }
        for kind, lines in rows.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{kind}_{name}.jsonl").write_text(text, encoding="utf-8")


def sample_texts(model: nn.Module, tokenizer: Any, prompts: list[str], seed: int) -> list[str]:
    """Sample at temperature 1, rows of equal token length side by side."""
    from mlx_lm.models.cache import make_prompt_cache

    mx.random.seed(seed)
    ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    texts = [""] * len(ids)
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(index)
    for members in by_length.values():
        cache = make_prompt_cache(model)
        tokens = mx.array([ids[index] for index in members])
        out: list[mx.array] = []
        ended = mx.zeros((len(members), 1), dtype=mx.bool_)
        while len(out) < 40 and not ended.all().item():
            tokens = mx.random.categorical(model(tokens, cache=cache)[:, -1, :])[:, None]
            ended = ended | (tokens == 2)
            out.append(tokens)
        for index, row in zip(members, np.array(mx.concatenate(out, axis=1)).tolist(), strict=True):
            end = row.index(2) if 2 in row else len(row)
            texts[index] = tokenizer.decode(row[:end], skip_special_tokens=True)
    return texts


def measure(
    folder: Path, count: int = 1536, problems: int = 500, seed: int = 5
) -> dict[str, float]:
    """Shares on held-out users and wordings, problems and choices at temperature 1."""
    from mlx_lm import load

    model, tokenizer = load(str(folder))[:2]
    users = world.make_users(count // 12, seed, held_out=True)
    asked = world.requests(held_out=True)
    jobs = [(user, item) for user in users for item in asked]
    prompts = [render((world.write_context(u, seed), [(r.text, "")]))[0] for u, r in jobs]
    answers = sample_texts(model, tokenizer, prompts, seed)
    grades = [world.grade(text, u.facts) for (u, _), text in zip(jobs, answers, strict=True)]
    rates = {
        "n": float(len(jobs)),
        "own": sum(g.own for g in grades) / len(jobs),
        "wrong": sum(g.wrong for g in grades) / len(jobs),
        "generic": sum(not g.own and not g.wrong for g in grades) / len(jobs),
    }
    for name, maker, kind in (
        ("sums", world.word_problems, "number"),
        ("choices", world.choices, "choice"),
    ):
        items = maker(problems, seed, held_out=True)
        texts = sample_texts(
            model, tokenizer, [render((None, [(p.text, "")]))[0] for p in items], seed
        )
        said = [
            final_answer(Prompt("", item.text, kind=kind), Response(text, (), "stop"))
            for item, text in zip(items, texts, strict=True)
        ]
        rates[f"{name}_form"] = sum(word is not None for word in said) / len(items)
        right = sum(word == item.answer for word, item in zip(said, items, strict=True))
        rates[f"{name}_accuracy"] = right / len(items)
    return {name: round(rate, 4) for name, rate in rates.items()}


def main() -> None:
    """Command line: train, measure, write the folder and its provenance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=3, default=(250, 300, 1000))
    parser.add_argument("--polish", type=int, default=500)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path)
    args = parser.parse_args()
    mx.disable_compile()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    tokenizer = make_tokenizer(args.out, args.seed)
    vocabulary = math.ceil(len(tokenizer) / 64) * 64
    model = build(vocabulary, args.seed)
    before = 0.0
    if args.start:
        model.load_weights(str(args.start / "model.safetensors"))
        before = json.loads((args.start / "PROVENANCE.json").read_text())["minutes"]
    else:
        fit(model, tokenizer, args.seed, list(enumerate(args.steps, 1)), args.rows, args.rate)
    if args.polish:
        fit(model, tokenizer, args.seed, [(POLISH, args.polish)], args.rows, 0.4 * args.rate)
    save(model, args.out, vocabulary)
    weights = (args.out / "model.safetensors").read_bytes()
    provenance = {
        "command": f"python -m mipo_mlx.tiny.pretrain --out DIR --seed {args.seed} "
        f"--steps {' '.join(map(str, args.steps))} --polish {args.polish} "
        f"--rows {args.rows} --rate {args.rate}",
        "seed": args.seed,
        "minutes": round(before + (time.perf_counter() - start) / 60, 1),
        "mlx": importlib.metadata.version("mlx"),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "held_out_rates": measure(args.out),
    }
    print(text := json.dumps(provenance, indent=1))
    (args.out / "PROVENANCE.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
