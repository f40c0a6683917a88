"""The whole loop on the embedded model: determinism, files, resume, privacy and bad input."""

from __future__ import annotations

import json
import math
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from lm import archs
from mipo_mlx import pipeline, tiny
from mipo_mlx.config import RunConfig, resolve, saved_config
from mipo_mlx.data.readers import read_contexts, read_pairs, read_prompts
from mipo_mlx.errors import ConfigError, DataError, MipoError
from mipo_mlx.evaluation.comparison import HEADLINE
from mipo_mlx.generation import answers as generating
from mipo_mlx.generation.inputs import Inputs, read_inputs
from mipo_mlx.inference.reference import with_ids
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import load_model
from mipo_mlx.run_dir import journal
from samples import QUIET, head

METRICS = {
    "personalization/own_context_rate",
    "personalization/wrong_fact_rate",
    "information/pmi",
    "information/context_accuracy",
    "control/swapped_context_gap",
    "diversity/self_bleu4",
    "length/response_tokens",
}


# the studies of eval that are measured unless they are left out
DEFAULTS = {name: getattr(resolve().eval, name) for name in QUIET}


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    """Ten users, ten prompts, two optimizer steps."""
    return {
        "contexts": head("contexts_train.jsonl", 10, tmp_path),
        "prompts": head("prompts_train.jsonl", 10, tmp_path),
        "prompts_per_context": 3,
        "max_steps": 2,
        "eval_prompts_per_context": 2,
        "resamples": 200,
        **QUIET,
    }


def config(options: dict[str, Any], **more: Any) -> RunConfig:
    return resolve(flags={**options, **more})


def test_run_writes_every_file_with_the_promised_schema(
    small: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    summary = pipeline.run.run(run, config({**small, **DEFAULTS})).to_json()
    results = json.loads((run / "eval.json").read_text())
    assert results["schema"] == 2
    studied = {name for part in results["sections"].values() for name in part["metrics"]}
    assert set(results["metrics"]) - studied == METRICS
    assert list(results["sections"]) == ["controls", "retention", "diversity", "memorization"]
    for name, row in results["metrics"].items():
        wanted = {*("base", "adapter", "delta", "ci95", "p", "n", "users", "resampled"), "unit"}
        wanted |= {"effective_n", "needed"}
        wanted |= {"base_ci95", "adapter_ci95"} if row["unit"].startswith("share") else set()
        wanted |= {"mcnemar_p"} if name.endswith("accuracy") else set()
        wanted |= {"title", "about", "better"} if name in studied else set()
        if name.startswith("memorization/"):  # differences to a control have less
            wanted &= set(row)
            assert wanted >= {"base", "adapter", "delta", "ci95", "p", "n", "unit", "title"}
            continue
        assert set(row) - {"p_holm"} == wanted
        assert ("p_holm" in row) == (name in HEADLINE)
        assert row["delta"] == pytest.approx(row["adapter"] - row["base"], abs=1e-6)
        assert row["ci95"][0] <= row["delta"] <= row["ci95"][1]
        assert row["n"] >= 2
    assert 0 <= summary["changed"] <= summary["answers"] == 4
    assert len(summary["examples"]) == (min(3, summary["changed"]) or 3)
    for example in summary["examples"]:
        assert (example["base"] != example["adapter"]) == (summary["changed"] > 0)
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert (run / "report.json").is_file()
    assert "own_context_rate" in (run / "report.md").read_text()


def test_a_model_of_recurrent_layers_runs_through_with_shared_prompts(
    small: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys and states in one layer, random weights; answers end at any of seventy tokens."""
    model = archs.write(tmp_path / "model", "falcon_h1", ends=list(range(70)))
    options = {
        "model": str(model),
        "contexts": head("contexts_train.jsonl", 6, tmp_path),
        "max_tokens": 24,
        "min_pmi": -100.0,
        "prompts_per_context": 2,
        "eval_prompts_per_context": 1,
    }
    run = tmp_path / "run"
    pipeline.run.run(run, config({**small, **options}))
    assert "whole prompt" not in caplog.text and "one at a time" not in caplog.text
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "ideal_tokens" in step]
    assert steps[0]["ideal_tokens"] <= steps[0]["forwarded_tokens"] < 0.7 * steps[0]["num_tokens"]
    assert (run / "report.html").is_file()


def test_run_directory_is_private(small: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pipeline.run.run(run, config(small))
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert (run / ".gitignore").read_text().strip() == "*"
    for path in run.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_same_seed_gives_the_same_bytes_and_batch_size_never_changes_the_pairs(
    small: dict[str, Any], tmp_path: Path
) -> None:
    for name, batch in (("a", 32), ("b", 32), ("c", 3), ("d", 1)):
        run = tmp_path / name
        options = config(small, generate_batch_size=batch)
        pipeline.generate.generate(run, options)
        if name in "ab":
            pipeline.train.train(run, options)
    pairs = {name: (tmp_path / name / "pairs.jsonl").read_bytes() for name in "abcd"}
    assert pairs["a"] == pairs["b"] == pairs["c"] == pairs["d"]
    weights = [mx.load(str(tmp_path / name / "adapter" / "adapters.safetensors")) for name in "ab"]
    assert set(weights[0]) == set(weights[1])
    for name, array in weights[0].items():
        assert mx.array_equal(array, weights[1][name]), name


@pytest.mark.parametrize("after", [0, 7, 23])
def test_an_interrupted_generate_goes_on_and_ends_with_the_same_bytes(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    pipeline.generate.generate(whole, config(small))
    real, sampled = journal.Journal.append, [0]

    def append(self: Any, row: Any) -> None:
        if sampled[0] == after:
            raise KeyboardInterrupt
        sampled[0] += 1
        real(self, row)

    monkeypatch.setattr(journal.Journal, "append", append)
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate.generate(run, config(small))
    assert not (run / "pairs.jsonl").exists()
    monkeypatch.setattr(journal.Journal, "append", real)
    # The options need not be given again.
    again = resolve(saved_config(run), {"generate_batch_size": 3})
    seen: list[int] = []
    pipeline.generate.generate(run, again, lambda stage, done, total: seen.append(done))
    assert seen[0] == after
    assert (run / "pairs.jsonl").read_bytes() == (whole / "pairs.jsonl").read_bytes()
    assert not list(run.glob("answers-*"))


def test_another_seed_gives_other_pairs(small: dict[str, Any], tmp_path: Path) -> None:
    for seed in (0, 1):
        pipeline.generate.generate(tmp_path / str(seed), config(small, seed=seed))
    first, second = ((tmp_path / str(s) / "pairs.jsonl").read_text() for s in (0, 1))
    assert first != second


@pytest.mark.parametrize("negatives", ["random", "missing"])
def test_negatives_come_from_somewhere_else_but_score_under_the_right_context(
    small: dict[str, Any], tmp_path: Path, negatives: str
) -> None:
    pipeline.generate.generate(tmp_path / "run", config(small, negatives=negatives))
    texts = {
        row["id"]: row["text"]
        for row in map(json.loads, Path(small["contexts"]).read_text().splitlines())
    }
    pairs = read_pairs(tmp_path / "run" / "pairs.jsonl")
    assert pairs
    for pair in pairs:
        assert texts[pair.context_id] in pair.messages[0]["content"]
        assert pair.negative_context_id != pair.context_id
        assert (pair.negative_context_id == "") == (negatives == "missing")
        assert pair.ref_chosen_logps is not None
        assert pair.ref_chosen_logps < 0


def test_an_unchanged_step_is_not_computed_again(small: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pipeline.generate.generate(run, config(small))
    before = (run / "pairs.jsonl").stat().st_mtime_ns
    assert pipeline.generate.generate(run, config(small))["unchanged"]
    assert (run / "pairs.jsonl").stat().st_mtime_ns == before
    assert "unchanged" not in pipeline.generate.generate(run, config(small, seed=5))


def test_eval_samples_again_only_what_has_changed(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, counts = tmp_path / "run", []
    real = generating.respond

    def respond(lm: Any, jobs: Any, *rest: Any) -> Any:
        counts.append(len(jobs))
        return real(lm, jobs, *rest)

    monkeypatch.setattr(generating, "respond", respond)
    pipeline.run.run(run, config(small))
    answers = (run / "answers.jsonl").read_bytes()
    assert counts[-2:] == [4, 4]  # base, adapter
    for options in ({"resamples": 300}, {"eval_prompts_per_context": 1}):
        counts.clear()
        pipeline.evaluate.evaluate(run, config({**small, **options}))
        assert counts == [0, 0]
    pipeline.evaluate.evaluate(run, config(small))
    assert (run / "answers.jsonl").read_bytes() == answers
    pipeline.train.train(run, config(small, max_steps=1))
    counts.clear()
    pipeline.evaluate.evaluate(run, config(small, max_steps=1))
    assert counts == [0, 4]  # the base is as it was
    counts.clear()
    pipeline.evaluate.evaluate(run, config(small, max_steps=1, temperature=0.7))
    assert counts == [4, 4]
    assert len(list(run.glob("sampled-*.jsonl"))) == 2


def test_the_adapter_opens_in_stock_mlx_lm_with_equal_logits(
    small: dict[str, Any], tmp_path: Path
) -> None:
    from mlx_lm import load

    from mipo_mlx.models.load import load_model

    run = tmp_path / "run"
    pipeline.generate.generate(run, config(small))
    pipeline.train.train(run, config(small))
    stock, tokenizer = load(str(tiny.MODEL_DIR), adapter_path=str(run / "adapter"))[:2]
    ours = load_model("embedded", adapter_path=run / "adapter").model
    plain = load_model("embedded").model
    tokens = mx.array([tokenizer.encode("Where do I live?")])
    np.testing.assert_allclose(np.array(ours(tokens)), np.array(stock(tokens)), atol=1e-5)
    assert float(mx.abs(ours(tokens) - plain(tokens)).max()) > 1e-4


def test_the_command_line_of_mlx_lm_runs_with_the_adapter(
    small: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pipeline.generate.generate(run, config(small))
    pipeline.train.train(run, config(small))
    words = ["--model", str(tiny.MODEL_DIR), "--adapter-path", str(run / "adapter")]
    words += ["--prompt", "Plan my Saturday.", "--max-tokens", "30"]
    result = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "generate", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "Generation:" in result.stdout


def test_training_refuses_pairs_of_another_model(small: dict[str, Any], tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    pipeline.generate.generate(run, config(small))
    shutil.copytree(tiny.MODEL_DIR, other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rope_theta": 5000.0}))
    with pytest.raises(ConfigError, match="another model") as caught:
        pipeline.train.train(run, config(small, model=str(other)))
    assert "mipo generate" in caught.value.hint
    # As a file of unknown origin they are welcome: ids and log-probs are made anew.
    given = config(small, model=str(other), pairs=str(run / "pairs.jsonl"))
    stats = pipeline.train.train(tmp_path / "second", given)
    assert stats["first"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    with pytest.raises(ConfigError, match="another model"):
        pipeline.evaluate.evaluate(tmp_path / "second", config(small))


def test_eval_refuses_users_that_were_trained_on(small: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pipeline.generate.generate(run, config(small))
    pipeline.train.train(run, config(small))
    with pytest.raises(ConfigError, match="held-out users were trained on"):
        pipeline.evaluate.evaluate(run, config(small, held_out_users=0.6))
    whole = pipeline.evaluate.evaluate(run, config(small)).to_json()
    assert whole["held_out"] == "users and prompts"
    assert {kind: seen for kind, (seen, _) in whole["overlap"].items()} == {
        "users": 0, "prompts": 0
    }  # fmt: skip
    trained = {
        row["context_id"] for row in map(json.loads, (run / "pairs.jsonl").read_text().splitlines())
    }
    options = config(small, held_out_users=0.6, allow_overlap=True)
    results = pipeline.evaluate.evaluate(run, options).to_json()
    held = {user.id for user in read_inputs(options.data).held_contexts}
    assert results["overlap"]["users"] == [len(held & trained), len(held)]
    assert results["held_out"] == "prompts"
    told = pipeline.report.report(run, options).limits
    assert f"{len(held & trained)} of {len(held)} users asked were trained on, by their texts." in (
        told
    )


def test_users_that_were_trained_on_are_found_where_contexts_are_cut(
    small: dict[str, Any], tmp_path: Path
) -> None:
    run, options = tmp_path / "run", {**small, "max_prompt_tokens": 40}
    assert pipeline.generate.generate(run, config(options))["contexts_cut"] > 0
    pipeline.train.train(run, config(options))
    users = {user.text for user in read_inputs(config(options).data).train_contexts}
    trained = {pair.messages[0]["content"] for pair in read_pairs(run / "pairs.jsonl")}
    assert not trained & users  # all of them were cut
    with pytest.raises(ConfigError, match="held-out users were trained on"):
        pipeline.evaluate.evaluate(run, config(options, held_out_users=0.6))


def test_a_copy_of_a_trained_user_under_another_name_is_found(
    small: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pipeline.generate.generate(run, config(small))
    pipeline.train.train(run, config(small))
    pair = next(iter(read_pairs(run / "pairs.jsonl")))
    known, asked = (message["content"] for message in pair.messages)
    rows = [{"id": "new", "text": f" {known.upper()}"}, {"id": "other", "text": "I fish."}]
    (tmp_path / "foreign.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "asked.jsonl").write_text(
        json.dumps({"id": "p", "text": "Who am I?"}) + "\n" + json.dumps({"id": "q", "text": asked})
    )
    foreign = {"contexts": str(tmp_path / "foreign.jsonl"), "held_out_users": 0.0}
    foreign |= {"prompts": str(tmp_path / "asked.jsonl"), "held_out_prompts": 0.0}
    results = pipeline.evaluate.evaluate(run, config(small, **foreign)).to_json()
    assert results["overlap"] == {"users": [1, 2], "prompts": [1, 2]}
    assert results["held_out"] == "nothing"
    (tmp_path / "foreign.jsonl").write_text(
        json.dumps(rows[1]) + "\n" + json.dumps({**rows[1], "id": "third", "text": "I ski."})
    )
    (tmp_path / "asked.jsonl").write_text(json.dumps({"id": "p", "text": "Who am I?"}))
    results = pipeline.evaluate.evaluate(run, config(small, **foreign)).to_json()
    assert results["overlap"] == {"users": [0, 2], "prompts": [0, 1]}
    assert results["held_out"] == "users and prompts"  # another data set is new as a whole


def test_prompt_objective_reports_accuracy_form_and_entropy(tmp_path: Path) -> None:
    options = {
        "objective": "prompt",
        "prompts": head("problems_train.jsonl", 40, tmp_path),
        "max_steps": 1,
        "resamples": 200,
    }
    results = pipeline.run.run(tmp_path / "run", config(options)).to_json()
    names = {"reasoning/accuracy", "reasoning/form_rate", "information/pmi"}
    assert names <= set(results["metrics"])
    for pair in read_pairs(tmp_path / "run" / "pairs.jsonl"):
        assert pair.negative_prompt_id not in ("", pair.prompt_id)


def test_training_on_preference_data_in_both_of_trls_forms(tmp_path: Path) -> None:
    rows = [
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {
            "prompt": [{"role": "user", "content": "What colour is the sky?"}],
            "chosen": [{"role": "assistant", "content": "It is blue."}],
            "rejected": [{"role": "assistant", "content": "It is green, I think."}],
        },
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    stats = pipeline.train.train(tmp_path / "run", config({"pairs": str(path), "batch_size": 2}))
    assert stats["pairs"] == 2
    assert stats["first"]["loss"] == pytest.approx(math.log(2), abs=1e-5)


BAD = {
    "contexts": ('{"id": "a", "text": "x"}\n{"id": "b"\n', DataError, r"bad\.jsonl:2"),
    "prompts": ("", DataError, r"bad\.jsonl"),
}


@pytest.mark.parametrize("which", sorted(BAD))
def test_bad_files_are_errors_with_place_and_hint_and_nothing_is_written(
    small: dict[str, Any], tmp_path: Path, which: str
) -> None:
    text, kind, place = BAD[which]
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(kind, match=place) as caught:
        pipeline.run.run(tmp_path / "run", config(small, **{which: str(path)}))
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


def test_words_around_a_context_are_the_same_everywhere_and_recorded(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = chat_template._render

    def render(tokenizer: Any, chat: Any, *rest: Any) -> str:
        seen.extend(m["content"] for m in chat if m["role"] in ("system", "user"))
        return real(tokenizer, chat, *rest)

    monkeypatch.setattr(chat_template, "_render", render)
    words = {"context_template": "Of the user: {context} Heed it.", "answer_style": "Be brief."}
    run, options = tmp_path / "run", config(small, **words)
    pipeline.generate.generate(run, options)
    pairs = read_pairs(run / "pairs.jsonl")
    texts = {context.id: context.text for context in read_contexts(Path(small["contexts"]))}
    asked = {prompt.id: prompt.text for prompt in read_prompts(Path(small["prompts"]))}
    for pair in pairs:
        system, user = (message["content"] for message in pair.messages)
        assert system == f"Of the user: {texts[pair.context_id]} Heed it."
        assert user == f"{asked[pair.prompt_id]} Be brief."
    pipeline.train.train(run, options)
    about = json.loads((run / "adapter" / "adapter_config.json").read_text())["mipo"]
    assert {name: about[name] for name in words} == words
    assert {name: saved[name] for saved in [saved_config(run) or {}] for name in words} == words
    pipeline.evaluate.evaluate(run, options)
    told = [text for text in seen if text.startswith("Of the user: ")]
    assert len(told) * 2 >= len(seen) - 20  # all but requests without a context come in two
    assert all(text in told or text.endswith(" Be brief.") for text in seen)
    with pytest.raises(ConfigError, match=r"trained with answer_style 'Be brief\.', not ''"):
        pipeline.evaluate.evaluate(run, config(small, **{**words, "answer_style": ""}))
    everybody = config(small, **words, held_out_users=0.6)  # some of training among them
    with pytest.raises(ConfigError, match="held-out users were trained on"):
        pipeline.evaluate.evaluate(run, everybody)


def test_answers_cut_off_are_trained_on_as_prefixes_or_left_out(
    small: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = pipeline.generate.generate(run, config(small, max_tokens=9))
    rows = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    cut = [row for row in rows if row["chosen_finish_reason"] == "length"]
    assert made["truncated"] >= len(cut) > 0
    assert all(2 not in row["chosen_token_ids"] for row in cut)  # the end of a turn
    pairs = read_pairs(run / "pairs.jsonl")
    lm = load_model("embedded")
    ends = chat_template.eos_ids(lm.tokenizer)
    for pair in pairs:  # as from elsewhere: text alone, and how it ended
        bare = replace(pair, chosen=replace(pair.chosen, token_ids=()))
        ids = with_ids(lm, bare, False).chosen.token_ids
        assert (ids[-1] in ends) == (pair.chosen.finish_reason == "stop")
    other = pipeline.generate.generate(
        tmp_path / "other", config(small, max_tokens=9, drop_truncated=True)
    )
    assert other["dropped"]["cut_off"] == other["truncated"] == made["truncated"]
    kept = read_pairs(tmp_path / "other" / "pairs.jsonl")
    assert {side.finish_reason for p in kept for side in (p.chosen, p.rejected)} == {"stop"}


@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_one_user_is_contrasted_with_invented_ones_and_the_summary_says_so(
    small: dict[str, Any], tmp_path: Path, negatives: str
) -> None:
    one = head("contexts_heldout.jsonl", 1, tmp_path)
    options = config(
        small, contexts=one, negatives=negatives, prompts_per_context=-1, min_pmi=-1000.0
    )
    made = pipeline.generate.generate(tmp_path / "run", options)
    pairs = read_pairs(tmp_path / "run" / "pairs.jsonl")
    (user,) = read_contexts(Path(one))
    mine = [pair for pair in pairs if pair.context_id == user.id]
    invented = {pair.negative_context_id for pair in mine}
    assert all(re.fullmatch(r"foil-\d\d", name) for name in invented)
    assert {pair.context_id for pair in pairs} == {user.id, *invented}  # each against the other
    assert 2 * len(mine) == len(pairs)
    assert f"{len(invented)} invented users" in made["foils"]
    assert len(pairs) + sum(made["dropped"].values()) == 16  # all prompts but the held-out two
    pipeline.train.train(tmp_path / "run", options)
    results = pipeline.evaluate.evaluate(tmp_path / "run", options).to_json()
    assert results["metrics"]["information/pmi"]["n"] == 2  # foils are not asked anything
    assert results["held_out"] == "prompts"
    inputs = read_inputs(options.data)
    assert not {foil.id for foil in inputs.foils} & {foil.id for foil in inputs.eval_foils}
    assert len(inputs.foils) + len(inputs.eval_foils) == 64


def test_foils_stand_in_only_where_users_are_too_few(tmp_path: Path) -> None:
    def read(count: int) -> Inputs:
        path = head("contexts_train.jsonl", count, tmp_path)
        return read_inputs(resolve(flags={"contexts": path}).data)

    five = read(5)  # one of them is held out
    assert (len(five.train_contexts), len(five.held_contexts)) == (4, 1)
    assert (len(five.foils), len(five.eval_foils)) == (0, 16)
    two = read(2)
    assert (two.foils, two.eval_foils) == ([], [])
    assert (len(read(1).foils), len(read(1).eval_foils)) == (48, 16)


def test_long_notes_are_contexts_of_one_user_and_never_each_others_negatives(
    small: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("garden", "work"):
        text = "\n\n".join(f"## Part {n}\n\nI like {name} number {n}." for n in range(6))
        (folder / f"{name}.md").write_text(text)
    options = config(small, contexts=str(folder), note_tokens=60, min_pmi=-1000.0)
    inputs = read_inputs(options.data)
    assert len(inputs.train_contexts) > 2
    assert {context.owner for context in inputs.train_contexts} == {"notes"}
    for n in range(6):
        assert sum(f"garden number {n}." in c.text for c in inputs.train_contexts) == 1
    pipeline.generate.generate(tmp_path / "run", options)
    pairs = read_pairs(tmp_path / "run" / "pairs.jsonl")
    assert len({pair.context_id for pair in pairs}) > 2
    for pair in pairs:  # a part of the notes against an invented user, or the other way round
        sides = (pair.context_id, pair.negative_context_id)
        assert sum(name.startswith("foil-") for name in sides) == 1
    assert read_inputs(replace(options.data, note_tokens=0)).train_contexts[0].id == "notes"


def test_one_user_with_missing_negatives_runs(small: dict[str, Any], tmp_path: Path) -> None:
    one = head("contexts_heldout.jsonl", 1, tmp_path)
    options = config(small, contexts=one, negatives="missing")
    summary = pipeline.run.run(tmp_path / "run", options).to_json()
    assert summary["held_out"] == "prompts"


def test_a_context_longer_than_the_window_is_named_without_its_text(
    small: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    rows = [{"id": "short", "text": "Hello."}, {"id": "long", "text": "secret word " * 3000}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"long\.jsonl:2.*'long'.*window") as caught:
        pipeline.run.run(tmp_path / "run", config(small, contexts=str(path)))
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_folder_without_weights_is_an_error(small: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(MipoError, match="empty") as caught:
        pipeline.run.run(tmp_path / "run", config(small, model=str(folder)))
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("step", "needs"), [("train", "generate"), ("evaluate", "train"), ("report", "eval")]
)
def test_a_step_without_its_input_says_what_to_run(
    small: dict[str, Any], tmp_path: Path, step: str, needs: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(getattr(pipeline, step), step)(tmp_path / "run", config(small))
    assert f"mipo {needs}" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_hard_negatives_survive_an_interruption_and_are_other_users(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = config(small, negatives="hard", num_negatives=2)
    pipeline.generate.generate(whole, options)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "compare users":  # the probes are sampled, the pairs' answers are not
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.generate.generate(run, options, stop)
    pipeline.generate.generate(run, options)
    assert (run / "pairs.jsonl").read_bytes() == (whole / "pairs.jsonl").read_bytes()
    for pair in read_pairs(run / "pairs.jsonl"):
        assert pair.negative_context_id not in ("", pair.context_id)


def test_eval_without_prompts_of_held_out_users_says_so(tmp_path: Path) -> None:
    rows = [{"id": f"u{n}", "text": f"I live in town {n}."} for n in range(6)]
    (tmp_path / "users.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"contexts": str(tmp_path / "users.jsonl"), "max_steps": 1, "min_pmi": -1000.0}
    held = read_inputs(config(options).data).held_contexts
    owner = next(row["id"] for row in rows if row["id"] not in {user.id for user in held})
    asked = {"id": "a", "text": "Where do I live?", "context_id": owner}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(asked))
    everything = config({**options, "prompts": str(tmp_path / "prompts.jsonl")})
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapters.safetensors").touch()
    with pytest.raises(ConfigError, match="eval has no prompts"):
        pipeline.evaluate.evaluate(tmp_path / "run", everything)
