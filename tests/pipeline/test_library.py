"""``import mipo_mlx``: the steps by hand give what commands give, and take functions of yours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

import mipo_mlx as mipo
from mipo_mlx import tiny
from mipo_mlx.errors import ConfigError, MipoError

CONTEXTS = tiny.SAMPLES_DIR / "contexts_train.jsonl"
PROMPTS = tiny.SAMPLES_DIR / "prompts_train.jsonl"
OPTIONS = {"max_tokens": 24, "prompts_per_context": 4}


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, mipo_mlx; assert 'train' in dir(mipo_mlx);"
        "print(sorted({'mlx.core', 'numpy', 'mlx_lm', 'scipy', 'rich'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mipo.trian  # noqa: B018
    assert all(getattr(mipo, name) is not None for name in mipo.__all__)


def test_a_split_never_cuts_a_user_or_a_text_apart() -> None:
    contexts = [
        mipo.Context(f"c{n}", f"Note {n % 7} of somebody.", user=f"u{n % 5}") for n in range(20)
    ]
    for seed in range(5):
        train, held = mipo.split(contexts, 0.4, seed)
        assert sorted(c.id for c in train + held) == sorted(c.id for c in contexts)
        assert not {c.owner for c in train} & {c.owner for c in held} or not held
    train, held = mipo.split(mipo.read_prompts(str(PROMPTS)))
    assert not {p.id for p in train} & {p.id for p in held}
    with pytest.raises(ConfigError, match="cannot be split"):
        mipo.split([mipo.Prompt("a", "A?")])


def test_the_whole_loop_by_hand(tmp_path: Path) -> None:
    lm = mipo.load_model("embedded")
    users, _ = mipo.split(mipo.read_contexts(str(CONTEXTS))[:12], 0.25)
    prompts, _ = mipo.split(mipo.read_prompts(PROMPTS)[:8])
    pairs = mipo.generate_pairs(lm, users, prompts, seed=1, **OPTIONS)
    assert {pair.context_id for pair in pairs} <= {user.id for user in users}
    assert all(pair.ref_chosen_logps is not None for pair in pairs)
    steps = mipo.train(lm, pairs, loss=mipo.DPO(beta=0.5), max_steps=3, learning_rate=1e-3)
    assert steps[0].values["loss"] == pytest.approx(np.log(2), abs=1e-5)
    folder = mipo.save_adapter(lm, str(tmp_path / "adapter"))
    about = json.loads((folder / "adapter_config.json").read_text())
    assert about["mipo"]["loss"].startswith("DPO(beta=0.5")
    known = mipo.read_contexts(tiny.SAMPLES_DIR / "contexts_heldout.jsonl")[:6]
    asked = mipo.read_prompts(tiny.SAMPLES_DIR / "prompts_heldout.jsonl")[:3]

    def exclaims(context: mipo.Context, prompt: mipo.Prompt, answer: str) -> float:
        return float("!" in answer)

    found = mipo.evaluate(lm, known, asked, metrics={"exclaims": exclaims}, resamples=100)
    assert found.metrics["own/exclaims"].n == found.answers > 0
    stock, tokenizer = mlx_lm.load(str(tiny.MODEL_DIR), adapter_path=str(folder))
    tokens = mx.array([tokenizer.encode("Where do I live?")])
    assert mx.allclose(stock(tokens), lm.model(tokens), atol=1e-4).item()


def test_functions_of_ones_own_are_taken_and_named(tmp_path: Path) -> None:
    lm = mipo.load_model("embedded")
    users = mipo.read_contexts(CONTEXTS)[:8]
    prompts = mipo.read_prompts(PROMPTS)[:4]

    def neighbours(contexts: Sequence[mipo.Context]) -> Mapping[str, Sequence[str]]:
        ids = [context.id for context in contexts]
        return {name: [ids[(n ^ 1)], *ids[:n], *ids[n + 1 :]] for n, name in enumerate(ids)}

    pairs = mipo.generate_pairs(lm, users, prompts, negatives=neighbours, block_users=2, **OPTIONS)
    twin = {user.id: users[place ^ 1].id for place, user in enumerate(users)}
    near = np.mean([pair.negative_context_id == twin[pair.context_id] for pair in pairs])
    assert near > 0.5  # 1 of 7 by chance; where twins say the same, others stand in

    def half(scores: mipo.Scores) -> mx.array:
        return 0.5 * mipo.Hinge(beta=0.1).loss(scores)

    steps = mipo.train(lm, pairs, loss=mipo.Custom(beta=0.1, function=half), max_steps=1)
    assert steps[0].values["loss"] == pytest.approx(0.5, abs=1e-5)  # half of max(0, 1 - 0)
    folder = mipo.save_adapter(lm, tmp_path / "adapter")
    loss = json.loads((folder / "adapter_config.json").read_text())["mipo"]["loss"]
    assert "test_library" in loss and loss.endswith("half)")
    with pytest.raises(MipoError, match="no adapter"):
        mipo.save_adapter(mipo.load_model("embedded"), tmp_path / "none")
    with pytest.raises(MipoError, match="did you mean"):
        mipo.generate_pairs(lm, users, prompts, max_token=3)


def test_own_importers_read_own_formats(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("ada: likes tea\nbob: likes rye\n")

    def people(path: Path) -> list[mipo.Context]:
        rows = (line.split(": ") for line in path.read_text().splitlines())
        return [mipo.Context(name, text) for name, text in rows]

    found = mipo.read_contexts(str(tmp_path / "people.txt"), importer=people)
    assert [context.id for context in found] == ["ada", "bob"]
