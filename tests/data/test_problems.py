"""Public data sets of problems: real samples where they are at hand, made-up rows else."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mipo_mlx.data.benchmarks import read_task
from mipo_mlx.data.readers import read_prompts
from mipo_mlx.errors import DataError
from mipo_mlx.grading import benchmark_prompts
from mipo_mlx.grading.final_choice import final_choice
from mipo_mlx.grading.final_number import final_number

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
FILES = (
    *(f"gsm8k/{name}.jsonl" for name in ("sample", "train_sample", "train_edge_cases")),
    "svamp/sample.jsonl",
    *(f"arc_easy/{name}.jsonl" for name in ("sample", "edge_cases")),
    *(f"arc_challenge/{name}.jsonl" for name in ("sample", "edge_cases", "orig_schema_sample")),
    "mmlu/sample.jsonl",
    "mmlu/sample_csv",
)


def gold(row: dict[str, Any]) -> str | Fraction:
    """The right answer of a published row, without the code under test."""
    if "answerKey" in row:
        return str(row["answerKey"])
    if "Answer" in row:
        return Fraction(row["Answer"])
    if "choices" in row:
        return "ABCD"[row["answer"]]
    return Fraction(row["answer"].rpartition("#### ")[2].replace(",", ""))


def published(path: Path) -> list[str | Fraction]:
    if path.is_dir():
        texts = [file.read_text(encoding="utf-8") for file in sorted(path.glob("*.csv"))]
        return [row[5] for text in texts for row in csv.reader(text.splitlines(keepends=True))]
    return [gold(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("style", benchmark_prompts.STYLES)
@pytest.mark.parametrize("name", FILES)
def test_every_row_is_read_and_every_gold_answer_parses(name: str, style: str) -> None:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"no sample {name} here")
    prompts, wanted = read_task(path, style), published(path)
    assert len(prompts) == len(wanted) > 0
    for prompt, right in zip(prompts, wanted, strict=True):
        assert prompt.answer is not None
        if prompt.kind == "number":
            assert Fraction(prompt.answer) == right
            for said in (f"The answer is {prompt.answer}.", f"#### {float(right):,.2f}"):
                assert final_number(said) == right
            continue
        assert prompt.answer == right
        offered = dict(prompt.choices)
        for said in (
            f"The answer is: {right}",
            f"**Answer:** ({right}) {offered[prompt.answer]}",
            f"{right}",
            f"So it is \\boxed{{{right}}}.",
        ):
            assert final_choice(said, prompt.choices) == right, said
        for label, text in prompt.choices:
            assert f"\n{label}. {text}\n" in prompt.text


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("gsm8k")])
def test_worked_solutions_of_gsm8k_parse_without_their_mark(name: str) -> None:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"no sample {name} here")
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert final_number(row["answer"]) == gold(row)


def write(path: Path, *rows: Any) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GSM = {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,200"}
SVAMP = {"ID": "chal-1", "Body": "Ann has 3 pens", "Question": "How many?", "Answer": 14.0}
ARC = {
    "id": "a1",
    "question": "Which?",
    "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
    "answerKey": "3",
}
OLD = {
    "id": "a1",
    "question": {"stem": "Which?", "choices": [{"text": t, "label": t.upper()} for t in "abcde"]},
    "answerKey": "E",
}
MMLU = {"question": "Which?", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 2}
HENDRYCKS = ["Which, and\nwhy?", "a", "b", "c", "d", "C"]


def test_forms_of_the_rows(tmp_path: Path) -> None:
    (sum_,) = read_task(write(tmp_path / "g.jsonl", GSM), "ours")
    assert (sum_.kind, sum_.answer, sum_.choices) == ("number", "1200", ())
    assert sum_.source == f"{tmp_path}/g.jsonl:1"
    (sum_,) = read_task(write(tmp_path / "s.jsonl", SVAMP), "ours")
    assert (sum_.id, sum_.answer) == ("chal-1", "14")
    assert sum_.text.startswith("Ann has 3 pens, How many?\n")
    joined = {"question_concat": "Ann. How many?", "Answer": "1,054.5"}
    (sum_,) = read_task(write(tmp_path / "c.jsonl", joined), "ours")
    assert (sum_.text.splitlines()[0], sum_.answer) == ("Ann. How many?", "1054.5")
    (choice,) = read_task(write(tmp_path / "a.jsonl", ARC), "paper")
    assert choice.choices == (("1", "x"), ("2", "y"), ("3", "z"))
    assert (choice.kind, choice.answer) == ("choice", "3")
    (choice,) = read_task(write(tmp_path / "o.jsonl", OLD), "ours")
    assert (choice.answer, len(choice.choices)) == ("E", 5)
    assert "where X is A, B, C, D or E." in choice.text
    (choice,) = read_task(write(tmp_path / "m.jsonl", MMLU), "ours")
    assert (choice.id, choice.answer) == ("virology/line1", "C")
    path = write(tmp_path / "anatomy_test.csv", HENDRYCKS, HENDRYCKS)
    first, second = read_task(path, "ours")
    assert (first.id, second.id) == ("anatomy/line2", "anatomy/line4")  # where each row ends
    assert first.answer == "C"
    assert first.text.startswith("Which, and\nwhy?\nA. a\n")
    header = ["question", "A", "B", "C", "D", "answer"]
    (choice,) = read_task(write(tmp_path / "h.csv", header, HENDRYCKS), "ours")
    assert choice.choices == tuple(zip("ABCD", "abcd", strict=True))


def test_the_papers_sum_stands_after_eight_worked_ones_that_our_parser_reads(
    tmp_path: Path,
) -> None:
    (prompt,) = read_task(write(tmp_path / "g.jsonl", GSM), "paper")
    blocks = prompt.text.split("\n\n")
    assert len(blocks) == 9
    assert blocks[-1] == "New question: How many?\nAnswer:"
    for block, (question, why, answer) in zip(blocks, benchmark_prompts.WORKED, strict=False):
        assert block.startswith(f"Question: {question}\n")
        told = block.partition("\nAnswer: ")[2]
        assert final_number(told) == final_number(why) == int(answer)
    assert benchmark_prompts.version("paper") == "paper/1"


def test_parquet_holds_the_same_problems(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([ARC, {**ARC, "id": "b", "answerKey": "1"}])
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet", row_group_size=1)
    read = read_task(tmp_path / "test.parquet", "ours")
    lines = write(tmp_path / "test.jsonl", ARC, {**ARC, "id": "b", "answerKey": "1"})
    assert [(p.id, p.text, p.answer, p.choices) for p in read] == [
        (p.id, p.text, p.answer, p.choices) for p in read_task(lines, "ours")
    ]
    assert [p.source for p in read] == [f"{tmp_path / 'test.parquet'}:{n}" for n in (1, 2)]
    assert read_prompts(tmp_path / "test.parquet") == read  # as prompts of a run, too
    faulty = [ARC, {**ARC, "id": "b", "answerKey": "Z"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(faulty), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet:2: the answer 'Z' is none of"):
        read_task(tmp_path / "test.parquet", "ours")
    with pytest.raises(DataError, match="no such file"):
        read_task(tmp_path / "absent.parquet", "ours")


def test_prompts_of_a_run_may_be_problems(tmp_path: Path) -> None:
    (prompt,) = read_prompts(write(tmp_path / "g.jsonl", GSM))
    assert prompt == read_task(tmp_path / "g.jsonl", "ours")[0]
    own = {"text": "My own", "question": "?", "answer": "4"}
    (prompt,) = read_prompts(write(tmp_path / "own.jsonl", own))
    assert prompt.text == "My own"


BAD: list[tuple[str, list[Any], str]] = [
    ("g.jsonl", [GSM, {**GSM, "answer": "four"}], r":2: 'answer' has no number after '####'"),
    ("g.jsonl", [GSM, {**GSM, "answer": "#### many"}], r":2: 'answer' has no number"),
    ("g.jsonl", [GSM, {"question": "?"}], r":2: field 'answer' is missing"),
    ("g.jsonl", [GSM, {**GSM, "question": " "}], r":2: 'question' is empty"),
    ("g.jsonl", [GSM, ["?"]], r":2: a JSON object is needed, not a list"),
    ("s.jsonl", [SVAMP, {**SVAMP, "ID": "b", "Answer": None}], r":2: 'Answer' must be a number"),
    ("s.jsonl", [SVAMP, {**SVAMP, "ID": "b", "Answer": "x"}], r":2: 'Answer' must be a number"),
    ("s.jsonl", [SVAMP, {**SVAMP, "ID": "b", "Answer": True}], r":2: .*not true or false"),
    ("s.jsonl", [SVAMP, SVAMP], r":2: id 'chal-1' stands on line 1 too"),
    ("a.jsonl", [ARC, {**ARC, "id": "b", "answerKey": "C"}], r":2: the answer 'C' is none of 1, 2"),
    ("a.jsonl", [ARC, {**ARC, "id": "b", "answerKey": 3}], r":2: 'answerKey' must be a string"),
    ("a.jsonl", [ARC, {**ARC, "id": "b", "choices": "{}"}], r":2: 'choices' must hold 'text'"),
    (
        "a.jsonl",
        [ARC, {**ARC, "id": "b", "choices": {"text": ["x"], "label": ["1", "2"]}}],
        r":2: 1 texts and 2 labels",
    ),
    (
        "a.jsonl",
        [ARC, {**ARC, "id": "b", "choices": {"text": ["x", "y"], "label": ["1", "1"]}}],
        r":2: labels 1, 1 are not unique",
    ),
    (
        "a.jsonl",
        [ARC, {**ARC, "id": "b", "choices": {"text": ["x", "y"], "label": ["1", 2]}}],
        r":2: a label must be a string",
    ),
    (
        "o.jsonl",
        [OLD, {**OLD, "id": "b", "question": {"stem": "?"}}],
        r":2: 'choices' must be a li",
    ),
    (
        "o.jsonl",
        [OLD, {**OLD, "id": "b", "question": {"choices": [1]}}],
        r":2: a choice must be an",
    ),
    ("m.jsonl", [MMLU, {**MMLU, "answer": 4}], r":2: 'answer' must be from 0 to 3"),
    ("m.jsonl", [MMLU, {**MMLU, "answer": True}], r":2: 'answer' must be from 0 to 3"),
    ("m.jsonl", [MMLU, {**MMLU, "answer": "E"}], r":2: the answer 'E' is none of A, B, C, D"),
    (
        "m.jsonl",
        [MMLU, {**MMLU, "choices": ["a", None], "answer": 0}],
        r":2: choice B must be text, not null",
    ),
    (
        "m.jsonl",
        [MMLU, {**MMLU, "choices": ["a", ""], "answer": 0}],
        r":2: choice B must be text, not empty",
    ),
    ("m.jsonl", [MMLU, {**MMLU, "choices": ["a"], "answer": 0}], r":2: 'choices' holds 1; two"),
    ("m.jsonl", [MMLU, {**MMLU, "choices": "['a', 'b']"}], r":2: 'choices' must be a list"),
    ("anatomy_test.csv", [HENDRYCKS, HENDRYCKS[:5]], r":4: 5 fields, not 6"),
    ("anatomy_test.csv", [HENDRYCKS, [*HENDRYCKS[:5], "F"]], r":4: the answer 'F' is none of A, B"),
    ("x.jsonl", [{"title": "?"}], r":1: no row of ARC, GSM8K, MMLU, SVAMP"),
    ("x.parquet", [{"title": "?"}], r"x.parquet: not valid Parquet"),
]


@pytest.mark.parametrize(("name", "rows", "message"), BAD)
def test_a_fault_is_told_with_its_line(
    tmp_path: Path, name: str, rows: list[Any], message: str
) -> None:
    path = write(tmp_path / name, *rows)
    with pytest.raises(DataError, match=message) as caught:
        read_task(path, "ours")
    assert caught.value.hint
    assert str(path) in caught.value.message


def test_all_faults_of_a_file_are_told_and_a_folder_is_read_whole(tmp_path: Path) -> None:
    bad = {**GSM, "answer": "?"}
    with pytest.raises(DataError, match=r"(?s):1: .*:3: "):
        read_task(write(tmp_path / "g.jsonl", {**GSM, "answer": "####"}, GSM, bad), "ours")
    folder = tmp_path / "mmlu"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no problems"):
        read_task(folder, "ours")
    write(folder / "b_test.csv", HENDRYCKS)
    write(folder / "a_test.csv", HENDRYCKS)
    assert [prompt.id for prompt in read_task(folder, "ours")] == ["a/line2", "b/line2"]
    write(folder / "a_dev.csv", HENDRYCKS)
    with pytest.raises(DataError, match=r"a_test.csv:2: id 'a/line2' stands at .*a_dev.csv:2 too"):
        read_task(folder, "ours")
