"""A training step of ours against TRL's own ``DPOTrainer``, in an environment made for it.

Both get the embedded model, the same LoRA numbers and the same conversational pairs. Equal are
token ids, loss, rewards, log-probs, and the gradient of every LoRA factor. Where TRL 1.16 differs:

* an answer goes on after its end-of-turn token with what the chat template still writes (here a
  line break); ours ends with the end of turn. The test says which tokens they are, and cuts them;
* ``ipo`` takes means over tokens, as ours does with ``--length-normalization``; likewise its
  ``sigmoid_norm``, ours being ``sigmoid``;
* ``sigmoid`` knows no label smoothing; ``aot`` does, and is the same loss when rows come singly;
* ``sft`` takes the mean over all tokens of a batch, ours over the means of its rows: likewise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from lm.archs import randomize_lora
from mipo_mlx import tiny
from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.inference.reference import with_reference
from mipo_mlx.models import chat_template, lora
from mipo_mlx.models.load import load_model
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.trainer import Trainer

pytestmark = pytest.mark.slow

PINNED = ["trl==1.16.0", "transformers==5.23.0", "torch==2.13.0", "peft==0.21.2"]
SIDE = Path(__file__).parent / "trl_side.py"
BETA = 0.3
SINGLY = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 7}
AT_ONCE = {"per_device_train_batch_size": 7}
# name -> (TRL's options, ours)
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sigmoid": ({**AT_ONCE, "loss_type": ["sigmoid"]}, {}),
    "sigmoid, row by row": ({**SINGLY, "loss_type": ["sigmoid"]}, {"micro_batch_size": 1}),
    "hinge": ({**AT_ONCE, "loss_type": ["hinge"]}, {"loss": "hinge"}),
    "ipo": (
        {**AT_ONCE, "loss_type": ["ipo"]},
        {"loss": "ipo", "length_normalization": True},
    ),
    "sigmoid of means": (
        {**AT_ONCE, "loss_type": ["sigmoid_norm"]},
        {"length_normalization": True},
    ),
    "label smoothing": (
        {**SINGLY, "loss_type": ["aot"], "label_smoothing": 0.2},
        {"label_smoothing": 0.2},
    ),
    "sft": ({**SINGLY, "loss_type": ["sft"]}, {"loss": "sft"}),
    "sigmoid and sft": (
        {**SINGLY, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"nll_weight": 0.5},
    ),
}
LOGPS = ("logps/chosen", "logps/rejected")
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
# turns before the answer, chosen, rejected
TALKS: list[tuple[list[tuple[str, str]], str, str]] = [
    (
        [
            ("system", "- name: Mira\n- town: Prague\n- drink: lassi"),
            ("user", "What should I drink?"),
        ],
        "A cold lassi, Mira.",
        "Hard to say. Some like tea, some like coffee, and I do not know what you like.",
    ),
    (
        [
            ("system", "I live in Oslo. A poodle lives with me."),
            ("user", "Plan my two free days."),
        ],
        "Day one: a long walk with the poodle.\nDay two: the harbour of Oslo, and soup.",
        "Rest.",
    ),
    ([("user", "Tea?")], "Yes", "No."),
    (
        [
            ("system", "About me: hobby juggling, job tailor."),
            ("user", "Hello."),
            ("assistant", "Hello! How can I help?"),
            ("user", "Pick a birthday present for me."),
        ],
        "Five new juggling balls.",
        "A saxophone, or a book on gardens, I suppose.",
    ),
    (
        [("system", "My name is Zoë. I like crème brûlée."), ("user", "Dessert?")],
        "Crème brûlée, Zoë!",
        "Ice.",
    ),
    (
        [("user", "Quinn has 2 shells and buys 3 more. How many shells does Quinn have now?")],
        "5",
        "2 + 3 = 6",
    ),
    (
        [("system", "I play the harp."), ("user", "Which instrument do I play, and how well?")],
        "The harp; how well, you did not say.",
        "The tuba, very well, as everybody in your street will gladly confirm to me.",
    ),
]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pairs() -> list[dict[str, Any]]:
    """Seven pairs in TRL's conversational form, with system messages and without."""
    return [
        {
            "prompt": [message(*turn) for turn in turns],
            "chosen": [message("assistant", chosen)],
            "rejected": [message("assistant", rejected)],
        }
        for turns, chosen, rejected in TALKS
    ]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment with TRL: that of MIPO_TRL_VENV, else a throwaway one.

    On Linux torch may come with CUDA's libraries, several GB.
    """
    given = os.environ.get("MIPO_TRL_VENV")
    folder = Path(given) if given else tmp_path_factory.mktemp("trl") / "env"
    found = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    steps = [] if found.exists() else [[sys.executable, "-m", "venv", str(folder)]]
    steps.append([str(found), "-m", "pip", "install", "--quiet", *PINNED])  # nothing if it is there
    for words in steps:
        done = subprocess.run(words, capture_output=True, text=True, timeout=3600)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"TRL cannot be installed: {last}")
    yield found
    if not given:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``adapter/``, whose numbers matter, on all linear layers of the embedded model."""
    made = tmp_path_factory.mktemp("job")
    lm = load_model("embedded")
    shape = lora.attach(lm, rank=4, scale=2.0, num_layers=-1, seed=0)
    randomize_lora(lm.model)
    lora.save(lm, made / "adapter", shape, extra={})
    (made / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs())), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def theirs(python: Path, folder: Path) -> list[dict[str, Any]]:
    """TRL's token ids and log of each step, and the gradient of each factor by mlx-lm's names."""
    job = {
        "model": str(tiny.MODEL_DIR),
        "adapter": str(folder / "adapter"),
        "scratch": str(folder / "scratch"),
        "pairs": pairs(),
        "end": load_model("embedded").tokenizer.eos_token_id,
        "steps": [{**options, "beta": BETA} for options, _ in STEPS.values()],
    }
    (folder / "job.json").write_text(json.dumps(job))
    out = folder / "out.json"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    done = subprocess.run(
        [str(python), "-I", str(SIDE), str(folder / "job.json"), str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps: list[dict[str, Any]] = json.loads(out.read_text())
    for number, step in enumerate(steps):
        step["gradient"] = mx.load(f"{out}.{number}.safetensors")
    return steps


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[TrainingRow]:
    """The pairs as ``mipo train --pairs`` reads them, with the base's log-probs."""
    lm = load_model("embedded")
    read = with_reference(
        lm,
        read_pairs(folder / "pairs.jsonl"),
        enable_thinking=False,
        on_progress=lambda *_: None,
    )
    made = []
    for pair in read:
        prompt = chat_template.prompt_ids(lm.tokenizer, pair.messages, enable_thinking=False)
        sides = (pair.chosen.token_ids, pair.rejected.token_ids)
        assert pair.ref_chosen_logps is not None
        assert pair.ref_rejected_logps is not None
        reference = (pair.ref_chosen_logps, pair.ref_rejected_logps)
        made.append(TrainingRow(EncodedPair(pair.id, prompt, sides), reference))
    return made


def our_step(
    folder: Path, rows: list[TrainingRow], options: dict[str, Any]
) -> tuple[dict[str, float], dict[str, mx.array]]:
    """Figures and gradient of one step under the same adapter."""
    lm = load_model("embedded", adapter_path=folder / "adapter")
    lora.go_on(lm, folder / "adapter")
    config = TrainConfig(batch_size=len(rows), beta=BETA, **options)
    trainer = Trainer(lm, rows, config, seed=0)
    lm.model.train()
    values, gradient = trainer.gradient(rows)
    return values, dict(tree_flatten(gradient))


def test_token_ids_are_equal_up_to_the_end_of_turn(
    theirs: list[dict[str, Any]], rows: list[TrainingRow]
) -> None:
    """After it TRL goes on with the line break that the template writes behind every turn."""
    tokenizer = load_model("embedded").tokenizer
    (line_break,) = tokenizer.encode("\n", add_special_tokens=False)
    for step in theirs:
        assert len(step["ids"]) == len(rows) == 7
        for told, row in zip(step["ids"], rows, strict=True):
            assert tuple(told["prompt_ids"]) == row.encoded.prompt_ids
            for side, ids in zip(
                ("chosen_ids", "rejected_ids"), row.encoded.responses, strict=True
            ):
                assert ids[-1] == tokenizer.eos_token_id
                assert tuple(told[side]) == (*ids, line_break)
    assert len({len(ids) for row in rows for ids in row.encoded.responses}) > 6  # ragged


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_trl_is_ours(
    name: str, theirs: list[dict[str, Any]], rows: list[TrainingRow], folder: Path
) -> None:
    told = theirs[list(STEPS).index(name)]
    options = STEPS[name][1]
    values, gradient = our_step(folder, rows, options)
    for figure in ("loss", *LOGPS, *REWARDS):
        assert values[figure] == pytest.approx(told["logged"][figure], rel=0, abs=1e-4), figure
    assert abs(told["logged"]["rewards/margins"]) > 0.1  # the policy is not the reference
    assert set(gradient) == set(told["gradient"])
    gap = sum(float(((gradient[k] - told["gradient"][k]) ** 2).sum()) for k in gradient)
    norm = sum(float((array**2).sum()) for array in gradient.values())
    assert (gap / norm) ** 0.5 < 1e-4
    assert norm**0.5 == pytest.approx(told["logged"]["grad_norm"], rel=1e-4)
