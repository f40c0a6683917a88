"""``mipo train --hold-facts``: what is trained on instead, with which tokens and log-probs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mipo_mlx import pipeline
from mipo_mlx.config import resolve, saved_config
from mipo_mlx.core.logprobs import token_logprobs
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.errors import ConfigError, DataError
from mipo_mlx.generation import contrasts
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import load_model
from mipo_mlx.pipeline import train
from mipo_mlx.training.collate import TrainingRow
from samples import head

QUICK: dict[str, Any] = {"batch_size": 4, "epochs": 1, "beta": 0.1}


def answers(folder: Path) -> str:
    """Pairs of our own: two whose chosen answer states Turin and more, one with nothing else."""
    chosen = [
        "Ask an agent for a list. There are nice rooms in Turin.",
        "You live in turin. Try the ramen bowl tonight.",
        "There are nice rooms in TURIN.",
        "Try the ramen bowl tonight.",
    ]
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Where to in Turin? {number}"}],
            "chosen": [{"role": "assistant", "content": text}],
            "rejected": [{"role": "assistant", "content": "Go to Turin, it is nice."}],
        }
        for number, text in enumerate(chosen)
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def listed(folder: Path, text: str = "Turin\n") -> str:
    path = folder / "held.txt"
    path.write_text(text)
    return str(path)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[TrainingRow]:
    """Rows that a training in this test trains on."""
    seen: list[TrainingRow] = []
    real = train.Trainer

    def trainer(lm: Any, rows: list[TrainingRow], *rest: Any, **more: Any) -> Any:
        seen.extend(rows)
        return real(lm, rows, *rest, **more)

    monkeypatch.setattr(train, "Trainer", trainer)
    return seen


def test_no_chosen_answer_that_is_trained_on_states_a_string(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = spied(monkeypatch)
    flags = {**QUICK, "pairs": answers(tmp_path), "hold_facts": listed(tmp_path)}
    stats = pipeline.train.train(tmp_path / "run", resolve(flags=flags))
    assert stats["hold_facts"] == "2 chosen responses scrubbed, 1 pairs dropped"
    assert stats["pairs"] == len(rows) == 3
    lm = load_model("embedded")
    ends = sorted(chat_template.eos_ids(lm.tokenizer))
    texts = []
    for row in rows:
        chosen, rejected = row.encoded.responses
        texts.append(chat_template.decode(lm.tokenizer, chosen))
        assert chosen[-1] in ends
        assert chat_template.decode(lm.tokenizer, rejected) == "Go to Turin, it is nice."
        for ids, told in zip((chosen, rejected), row.reference, strict=True):  # the plain model
            whole = mx.array([[*row.encoded.prompt_ids, *ids]])
            logps = token_logprobs(lm.model(whole[:, :-1]), whole[:, 1:])
            assert told == pytest.approx(logps[0, -len(ids) :].sum().item(), abs=1e-3)
    assert texts == [
        "Ask an agent for a list.",
        "Try the ramen bowl tonight.",
        "Try the ramen bowl tonight.",
    ]


def test_sampled_pairs_keep_their_tokens_where_nothing_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = spied(monkeypatch)
    run = tmp_path / "run"
    given = {
        **QUICK,
        "contexts": head("contexts_train.jsonl", 6, tmp_path),
        "prompts": head("prompts_train.jsonl", 5, tmp_path),
        "held_out_users": 0.0,
        "held_out_prompts": 0.0,
        "min_pmi": -1000.0,
    }
    pipeline.generate.generate(run, resolve(flags=given))
    pairs = read_pairs(run / "pairs.jsonl")
    word = "ramen"
    stating = [pair for pair in pairs if word in pair.chosen.text.casefold()]
    assert 0 < len(stating) < len(pairs)
    flags = {**given, "hold_facts": listed(tmp_path, f"{word}\n")}
    stats = pipeline.train.train(run, resolve(flags=flags))
    scrubbed, dropped = (int(part.split()[0]) for part in stats["hold_facts"].split(", "))
    assert scrubbed + dropped == len(stating)
    assert stats["pairs"] == len(pairs) - dropped
    by_id = {row.encoded.id: row for row in rows}
    lm = load_model("embedded")
    for pair in pairs:
        if pair in stating:
            continue
        row = by_id[pair.id]
        assert row.encoded.responses == (pair.chosen.token_ids, pair.rejected.token_ids)
        assert row.reference == (pair.ref_chosen_logps, pair.ref_rejected_logps)
    for row in rows:
        assert word not in chat_template.decode(lm.tokenizer, row.encoded.responses[0]).casefold()


def test_the_list_is_part_of_what_a_training_depends_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = {**QUICK, "pairs": answers(tmp_path), "learning_rate": 1e-2}
    weights = run / "adapter" / "adapters.safetensors"
    pipeline.train.train(run, resolve(flags=flags))
    plain = weights.read_bytes()
    held = {**flags, "hold_facts": listed(tmp_path)}
    pipeline.train.train(run, resolve(flags=held))
    scrubbed = weights.read_bytes()
    assert scrubbed != plain
    again = pipeline.train.train(run, resolve(flags=held))
    assert again["unchanged"]
    assert again["hold_facts"].startswith("2 chosen responses scrubbed")
    moved = tmp_path / "other.txt"  # the same words under another name
    moved.write_text("Turin\n")
    assert pipeline.train.train(run, resolve(flags={**held, "hold_facts": str(moved)}))["unchanged"]
    listed(tmp_path, "ramen\n")
    assert "unchanged" not in pipeline.train.train(run, resolve(flags=held))
    key = json.loads((run / "adapter" / "adapter_config.json").read_text())["mipo"]
    assert "Turin" not in json.dumps(key) and "held.txt" not in json.dumps(key)
    listed(tmp_path)
    pipeline.train.train(run, resolve(flags=held))
    assert weights.read_bytes() == scrubbed


def test_a_stopped_training_goes_on_with_the_same_answers(tmp_path: Path) -> None:
    flags = {**QUICK, "pairs": answers(tmp_path), "hold_facts": listed(tmp_path)}
    config = resolve(flags={**flags, "batch_size": 1, "epochs": 2, "learning_rate": 1e-2})
    whole, run = tmp_path / "whole", tmp_path / "run"
    pipeline.train.train(whole, config)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage.startswith("train") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.train.train(run, config, interrupt)
    seen: list[int] = []
    pipeline.train.train(run, resolve(saved_config(run)), lambda stage, done, n: seen.append(done))
    assert 3 in seen
    name = Path("adapter") / "adapters.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_faults_are_told_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "open_model", None)
    flags = {**QUICK, "pairs": answers(tmp_path), "hold_facts": str(tmp_path / "absent.txt")}
    for step in (pipeline.train.train, pipeline.run.run):
        with pytest.raises(DataError, match=r"absent\.txt: no such file"):
            step(tmp_path / "run", resolve(flags=flags))
        empty = resolve(flags={**flags, "hold_facts": listed(tmp_path, "\n\n")})
        with pytest.raises(DataError, match=r"held\.txt: holds no strings"):
            step(tmp_path / "run", empty)
        grids = resolve(flags={**flags, "hold_facts": listed(tmp_path), "loss": "infonce"})
        with pytest.raises(ConfigError, match="--loss infonce teaches rejected answers too"):
            step(tmp_path / "run", grids)
    monkeypatch.setattr(contrasts, "open_model", None)
    with pytest.raises(DataError, match=r"absent\.txt: no such file"):
        pipeline.run.run(
            tmp_path / "run", resolve(flags={"hold_facts": str(tmp_path / "absent.txt")})
        )
    assert not (tmp_path / "run").exists()


def test_a_list_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    held = listed(tmp_path, "turin\nramen\nagent\n")
    flags = {**QUICK, "pairs": answers(tmp_path), "hold_facts": held}
    with pytest.raises(DataError, match=r"held\.txt: no pair is left of 4") as caught:
        pipeline.train.train(tmp_path / "run", resolve(flags=flags))
    assert caught.value.hint
