"""Scoring of problems with known answers: arrays, figures, and what eval writes of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipo_mlx import pipeline
from mipo_mlx.config import resolve
from mipo_mlx.data.files import read_json
from mipo_mlx.data.readers import read_prompts
from mipo_mlx.errors import ConfigError, DataError
from mipo_mlx.evaluation import benchmarks
from mipo_mlx.generation.inputs import read_inputs
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import load_model
from mipo_mlx.pipeline import evaluate
from mipo_mlx.reporting.narrative.studies import benchmarks as told
from mipo_mlx.results import MetricRow
from mipo_mlx.results.findings import BenchmarkFindings
from mipo_mlx.tiny import SAMPLES_DIR
from mipo_mlx.types import Prompt, Response, silent


def choice(id: str, answer: str, labels: str = "ABC") -> Prompt:
    return Prompt(id, "?", answer, "choice", choices=tuple((c, f"text {c}") for c in labels))


def said(text: str, finish_reason: str = "stop") -> Response:
    return Response(text, (1,), finish_reason)


def test_answers_are_correct_wrong_unparsed_or_cut_off() -> None:
    problems = [Prompt(str(n), "?", "1200", "number") for n in range(6)]
    answers = [
        said("The answer is $1,200.00"),
        said("The answer is 1.200"),
        said("I don't know."),
        said("The answer is 12", "length"),
        said("So 600 * 2", "length"),
        said("The answer is 1,200. And what of", "length"),
    ]
    columns = benchmarks.grade_answers(problems, answers)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "correct": [1, 0, 0, 0, 0, 1],
        "parsed": [1, 1, 0, 0, 0, 1],
        "unparsed": [0, 0, 1, 0, 0, 0],
        "cut_off": [0, 0, 0, 1, 1, 0],
    }


def test_choices_are_right_by_their_label() -> None:
    problems = [choice(str(n), "B") for n in range(5)]
    texts = ["The answer is A", "The answer is B", "The answer is C", "text B.", "The answer is D"]
    columns = benchmarks.grade_answers(problems, [said(text) for text in texts])
    assert columns["correct"].tolist() == [0, 1, 0, 1, 0]
    assert columns["parsed"].tolist() == [1, 1, 1, 1, 0]


def test_own_gold_numbers_count_by_value() -> None:
    problems = [Prompt(text, "?", text, "number") for text in ("1,200", "1200.0", "-3", "1/2")]
    answers = [said(f"#### {text}") for text in ("1200", "$1,200", "3", "0.5")]
    assert benchmarks.grade_answers(problems, answers)["correct"].tolist() == [1, 1, 0, 1]


def test_letters_choose_the_likeliest_and_their_entropy_is_split_by_right_and_wrong() -> None:
    problems = [
        choice("1", "A"),
        choice("2", "B"),
        choice("3", "C", "ABCDE"),
        choice("4", "2", "12"),
    ]
    logps = [
        (0.0, -50.0, -50.0),
        (-5.0, -5.0, -5.0),
        tuple(math.log(p) for p in (0.1, 0.1, 0.2, 0.5, 0.1)),
        (-900.0, -900.0 + math.log(3)),
    ]
    columns = benchmarks.grade_letters(problems, logps)
    assert columns["letter_correct"].tolist() == [1, 0, 0, 1]  # a tie is no choice
    known = [0.3 * math.log(10) + 0.2 * math.log(5) + 0.5 * math.log(2)]
    known = [0.0, math.log(3), *known, math.log(4) - 0.75 * math.log(3)]
    np.testing.assert_allclose(columns["entropy"], known, atol=1e-4)
    half = {name: column.copy() for name, column in columns.items()}
    half["entropy"] /= 2
    figures = benchmarks.compare(columns, half, resamples=200, seed=0)
    for name, at in (("", [0, 1, 2, 3]), ("_correct", [0, 3]), ("_incorrect", [1, 2])):
        row = figures[f"choice_entropy{name}"]
        values = np.array(known)[at]
        assert row.base == pytest.approx(values.mean(), abs=1e-4)
        assert row.delta == pytest.approx(-values.mean() / 2, abs=1e-4)
        assert row.sd == pytest.approx((values.std(), values.std() / 2), abs=1e-4)
        assert row.n == len(at)
        assert (row.counted or (4, 4)) == (len(at), len(at))
    assert figures["letter_accuracy"].base == 0.5
    assert "accuracy" not in figures


def test_figures_that_nothing_counts_for_are_left_out() -> None:
    base = benchmarks.grade_answers([Prompt("1", "?", "1", "number")] * 2, [said("?"), said("1")])
    none = benchmarks.grade_answers([Prompt("1", "?", "1", "number")] * 2, [said("?"), said("?")])
    assert set(benchmarks.compare(base, none, resamples=100, seed=0)) == {
        *("accuracy", "parse_failures", "cut_offs"),
    }
    figures = benchmarks.compare(base, base, resamples=100, seed=0)
    assert figures["accuracy_of_parsed"].base == 1
    assert figures["accuracy_of_parsed"].counted == (1, 1)
    assert figures["accuracy"].base == figures["parse_failures"].base == 0.5


def test_a_task_is_told_in_a_sentence_and_in_a_table() -> None:
    same = MetricRow(0.5, 0.52, 0.02, (-0.01, 0.05), 0.3, 200, "share of answers")
    fell = replace(
        same,
        **{"base": 1.5, "adapter": 1.0, "delta": -0.5, "ci95": (-0.9, -0.1), "p": 0.01, "n": 150},
        **{"unit": "nats", "sd": (0.25, 0.125), "counted": (170, 150)},
    )
    figures = {"accuracy": same, "parse_failures": same, "choice_entropy_correct": fell}

    def lines(**figures: MetricRow) -> str:
        rows = {f"tasks/arc/{name}": row for name, row in figures.items()}
        return told(BenchmarkFindings(["arc"]), rows).lines[0]

    assert lines(**figures) == (
        "arc: no difference seen in accuracy at n = 200 problems (95% interval -1.0 to +5.0 "
        "points); choice entropy correct fell, 1.5 -> 1 nats (95% interval of the difference -0.9 "
        "to -0.1, n = 150 problems)."
    )
    rose = replace(same, ci95=(0.01, 0.03), p=0.02)
    assert lines(accuracy=rose).startswith("arc: accuracy rose, 50.0% -> 52.0% of answers (")
    assert "no difference" in lines(accuracy=replace(rose, p=0.06))
    rows = {f"tasks/arc/{name}": row for name, row in figures.items()} | {"tasks/g/accuracy": rose}
    (table,) = told(BenchmarkFindings(["g", "arc"]), rows).tables
    assert [list(row) for row in table.body] == [
        ["g: accuracy", "50.0%", "52.0%", "+2.0 [+1.0, +3.0] points", "200"],
        ["arc: accuracy", "50.0%", "52.0%", "+2.0 [-1.0, +5.0] points", "200"],
        ["arc: parse failures", "50.0%", "52.0%", "+2.0 [-1.0, +5.0] points", "200"],
        [
            *("arc: choice entropy correct", "1.5 (sd 0.25)", "1 (sd 0.125)"),
            *("-0.5 [-0.9, -0.1]", "170 and 150"),
        ],
    ]
    assert {len(row) for row in table.body} == {len(table.head)}


def gsm8k(path: Path, count: int) -> Path:
    rows = [{"question": f"What is {n} and 1?", "answer": f"#### {n + 1}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arc(path: Path, count: int) -> Path:
    names = [("1", "a tool"), ("2", "a town"), ("3", "a pet")]
    rows = [
        {
            "id": f"q{n}",
            "question": f"What is {name}?",
            "choices": {"text": [text for _, text in names], "label": [at for at, _ in names]},
            "answerKey": "2",
        }
        for n, name in enumerate(["Lisbon", "Porto", "Riga", "Oslo"][:count])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def options(text: str, **more: Any) -> Any:
    return resolve(flags={"tasks": text, **more}).eval


def test_problems_are_drawn_by_seed_and_keep_their_order(tmp_path: Path) -> None:
    file = gsm8k(tmp_path / "g.jsonl", 50)
    given = options(f"sums={file}, more={file}", task_limit=10)
    first, second = benchmarks.read_tasks(given, seed=0, offline=True)
    assert (first.name, second.name, len(first.prompts)) == ("sums", "more", 10)
    numbers = [int(prompt.id.removeprefix("sums/line")) for prompt in first.prompts]
    assert numbers == sorted(set(numbers)) != list(range(1, 11))
    assert [p.source for p in first.prompts] == [f"{file}:{n}" for n in numbers]
    assert benchmarks.read_tasks(given, seed=0, offline=True) == [first, second]
    assert benchmarks.read_tasks(given, seed=1, offline=True)[0] != first
    (whole,) = benchmarks.read_tasks(options(f"sums={file}", task_limit=0), seed=0, offline=True)
    assert len(whole.prompts) == 50
    assert len({benchmarks.digest(part) for part in ([first], [second], [whole], [])}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm8k", "--tasks: 'gsm8k' is not NAME=FILE"),
        ("gsm8k=", "--tasks: 'gsm8k=' is not NAME=FILE"),
        ("a/b=x.jsonl", "--tasks: 'a/b=x.jsonl' is not NAME=FILE"),
        ("a={file},a={file}", "--tasks: 'a' is given twice"),
        ("a=absent.jsonl", "absent.jsonl: no such file"),
        ("a=hf://x", "hf://x: no file on the hub"),
    ],
)
def test_a_malformed_option_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = gsm8k(tmp_path / "g.jsonl", 1)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        benchmarks.read_tasks(options(text.replace("{file}", str(file))), seed=0, offline=True)
    assert caught.value.hint


def test_the_embedded_model_solves_its_own_problems_in_both_modes() -> None:
    lm = load_model("embedded")
    known = read_prompts(SAMPLES_DIR / "problems_heldout.jsonl")
    config = resolve().generate

    greedy = replace(config, temperature=0.0, top_p=1.0, max_tokens=48)
    asking = benchmarks.Asking(greedy, "base", silent)
    for kind in ("number", "choice"):
        prompts = [prompt for prompt in known if prompt.kind == kind][:24]
        right = benchmarks.Task(kind, prompts)
        columns = benchmarks.measure(lm, right, asking)
        assert columns["parsed"].mean() > 0.9
        assert columns["correct"].mean() > 0.7
        assert ("entropy" in columns) == (kind == "choice")
        others = {"A": "B", "B": "C", "C": "A"}
        wrong = [replace(p, answer=others.get(p.answer or "", "A")) for p in prompts]
        if kind == "choice":  # it answers at once, so both modes ask the same
            assert columns["correct"].tolist() == columns["letter_correct"].tolist()
            task = benchmarks.Task(kind, wrong)
            columns = benchmarks.measure(lm, task, asking)
            assert max(columns["correct"].mean(), columns["letter_correct"].mean()) < 0.2
        rows = (
            list(score(lm, benchmarks.letter_rows(lm, prompts[:4], config)))
            if kind == "choice"
            else []
        )
        for row in rows:  # nearly all it may say is one of the labels
            assert 0.9 < np.exp(row).sum() <= 1 + 1e-4


def test_eval_measures_base_and_adapter_on_tasks(tmp_path: Path) -> None:
    sums, choices = gsm8k(tmp_path / "g.jsonl", 6), arc(tmp_path / "a.jsonl", 4)
    given = {
        "max_steps": 1,
        "learning_rate": 1e-2,
        "resamples": 100,
        "eval_contexts": 4,
        "candidates": 2,
    }
    given |= {"prompts_per_context": 1, "eval_prompts_per_context": 1, "task_max_tokens": 24}
    run = tmp_path / "run"
    config = resolve(flags={**given, "tasks": f"gsm8k={sums},arc={choices}", "task_limit": 5})
    results = pipeline.run.run(run, config).to_json()["metrics"]
    for name, count in (("gsm8k", 5), ("arc", 4)):
        for figure in ("accuracy", "parse_failures", "cut_offs"):
            row = results[f"tasks/{name}/{figure}"]
            assert row["n"] == count
            assert row["ci95"][0] <= row["delta"] <= row["ci95"][1]
    assert "tasks/arc/letter_accuracy" in results
    assert "tasks/gsm8k/letter_accuracy" not in results
    section = read_json(run / "eval.json")["sections"]["tasks"]
    assert [line.partition(":")[0] for line in section["lines"]] == ["gsm8k", "arc"]
    shown = {row[0]: row[1:] for row in section["tables"][0]["body"]}
    assert shown["gsm8k: accuracy"][0] == f"{100 * results['tasks/gsm8k/accuracy']['base']:.1f}%"
    assert {name.partition(":")[0] for name in shown} == {"gsm8k", "arc"}
    kept = section["details"]
    assert kept["arc"]["wording"] == "ours/1"
    assert kept["arc"]["ids"] == [f"arc/q{n}" for n in range(4)]
    for side in ("base", "adapter"):
        columns = kept["arc"][side]
        assert {len(column) for column in columns.values()} == {4}
        mean = results["tasks/arc/choice_entropy"][side]
        assert mean == pytest.approx(np.mean(columns["entropy"]))
        sums_to_one = zip(columns["parsed"], columns["unparsed"], columns["cut_off"], strict=True)
        assert {sum(parts) for parts in sums_to_one} == {1}
    (task,) = benchmarks.read_tasks(options(f"arc={choices}"), seed=0, offline=True)
    lm = load_model("embedded")  # the model without adapter
    logps = list(score(lm, benchmarks.letter_rows(lm, task.prompts, config.generate)))
    alone = benchmarks.grade_letters(task.prompts, logps)["entropy"]
    assert kept["arc"]["base"]["entropy"] == pytest.approx(alone, abs=1e-4)
    assert kept["arc"]["adapter"]["entropy"] != pytest.approx(alone, abs=1e-3)
    before = (run / "eval.json").read_bytes()
    pipeline.evaluate.evaluate(run, config)
    assert (run / "eval.json").read_bytes() == before
    gsm8k(sums, 3)  # other problems under the same name are measured anew
    again = pipeline.evaluate.evaluate(run, config)
    assert again.metrics["tasks/gsm8k/accuracy"].n == 3


def test_a_problem_beyond_the_window_is_named_with_its_line(tmp_path: Path) -> None:
    given = options(f"sums={gsm8k(tmp_path / 'g.jsonl', 2)}")
    problems = benchmarks.read_tasks(given, seed=0, offline=True)
    lm, config = load_model("embedded"), resolve().generate
    benchmarks.check_window(lm, problems, config, 512)
    with pytest.raises(DataError, match=r"g\.jsonl:1: .*window of 1024 tokens") as caught:
        benchmarks.check_window(lm, problems, config, 1020)
    assert "--task-max-tokens" in caught.value.hint


def test_a_run_tells_faults_of_tasks_before_anything_is_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        pipeline.run.run(run, resolve(flags={"tasks": "sums=absent.jsonl"}))
    assert not run.exists()


def test_a_few_problems_that_repeat_those_of_training_are_left_out(tmp_path: Path) -> None:
    given = options(f"sums={gsm8k(tmp_path / 'g.jsonl', 40)}", task_limit=39)
    (whole,) = benchmarks.read_tasks(replace(given, task_limit=0), seed=0, offline=True)
    texts = [prompt.text for prompt in whole.prompts]
    for count, left in ((2, 38), (3, 39)):  # 5% of 40 is 2; more is a wrong split
        (task,) = benchmarks.read_tasks(given, seed=0, offline=True, trained=set(texts[:count]))
        assert len(task.prompts) == left
        assert any(prompt.text in texts[:count] for prompt in task.prompts) == (count == 3)


def test_problems_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    sums = gsm8k(tmp_path / "g.jsonl", 12)
    given = {"objective": "prompt", "prompts": str(sums), "max_steps": 1, "min_pmi": -1000.0}
    run = tmp_path / "run"
    config = resolve(flags={**given, "max_tokens": 16, "tasks": f"gsm8k={sums}"})
    said = r"of 12 problems of task 'gsm8k' were trained on, .*:\d"
    with pytest.raises(ConfigError, match=said):
        pipeline.run.run(run, config)
    assert not run.exists()  # told before anything is made
    pipeline.generate.generate(run, config)
    pipeline.train.train(run, config)
    with pytest.raises(ConfigError, match=said):
        pipeline.evaluate.evaluate(run, config)
    foreign = resolve(flags={"tasks": f"gsm8k={sums}", "pairs": str(run / "pairs.jsonl")})
    prepared = evaluate.prepare_studies(run, foreign, read_inputs(foreign.data))
    (study,) = [one for one in prepared if one.name == "tasks"]
    with pytest.raises(ConfigError, match=said):  # by the pairs themselves
        study.check(load_model("embedded"))
