"""Problems with known answers, from five public data sets in the form they are published in.

Told by their columns, from JSONL, JSON, CSV or Parquet:

* GSM8K (``openai/gsm8k``): ``question``, ``answer`` that ends with ``#### N``.
* SVAMP (``arkilpatel/SVAMP``, ``ChilleD/SVAMP``): ``Body`` and ``Question``, or
  ``question_concat``; ``Answer``.
* ARC Easy and Challenge (``allenai/ai2_arc``): ``question``, ``choices`` with ``text`` and
  ``label``, ``answerKey``; or AI2's own files, where ``question`` holds ``stem`` and ``choices``.
* MMLU (``cais/mmlu``): ``question``, ``choices``, ``answer`` from 0; or Hendrycks' CSV, without a
  header, the subject in the file's name. A folder is read as all its files.

Labels stay as published (A to E, or 1 to 4).
"""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mipo_mlx.data.files import (
    Fault,
    Row,
    id_field,
    kind_of,
    read_records,
    rows,
    text_field,
    text_of,
)
from mipo_mlx.errors import DataError
from mipo_mlx.grading.benchmark_prompts import ask_choice, ask_number
from mipo_mlx.grading.final_number import final_number, spell
from mipo_mlx.types import Prompt

FIELDS = ("question", "A", "B", "C", "D", "answer")  # of Hendrycks' CSV
Source = tuple[int, Row | Fault]


def _number_prompt(id: str, question: str, gold: Fraction, source: str, style: str) -> Prompt:
    return Prompt(id, ask_number(question, style), spell(gold), "number", source)


def _choice_prompt(
    id: str,
    question: str,
    choices: Sequence[tuple[Any, Any]],
    key: str,
    source: str,
    style: str,
) -> Prompt:
    """A prompt of labels and texts that have not been checked yet."""
    if len(choices) < 2:
        raise Fault(f"'choices' holds {len(choices)}; two are the least.", "see the data set")
    for label, text in choices:
        if not isinstance(label, str) or not label.strip():
            raise Fault(f"a label must be a string, not {kind_of(label)}.", '"A" or "1"')
        if not isinstance(text, str) or not text.strip():
            what = "empty" if isinstance(text, str) else kind_of(text)
            raise Fault(
                f"choice {label} must be text, not {what}.",
                'a choice "None" or "NA" may have been lost on export; see the published file',
            )
    offered = tuple((label.strip(), text.strip()) for label, text in choices)
    labels = [label for label, _ in offered]
    if len(set(labels)) < len(labels):
        raise Fault(f"labels {', '.join(labels)} are not unique.", "one label a choice")
    if key not in labels:
        raise Fault(f"the answer {key!r} is none of {', '.join(labels)}.", "see the data set")
    return Prompt(id, ask_choice(question, offered, style), key, "choice", source, choices=offered)


def _list_field(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise Fault(
            f"{name!r} must be a list, not {kind_of(value)}.",
            "CSV holds no lists; take JSONL" if isinstance(value, str) else "as published",
        )
    return value


def _gsm8k(row: Row, number: int, source: str, style: str) -> Prompt:
    solution = text_field(row, ("answer",))
    gold = final_number(solution) if "####" in solution else None
    if gold is None:
        raise Fault("'answer' has no number after '####'.", "GSM8K's last line is #### 72")
    question = text_field(row, ("question",)).strip()
    return _number_prompt(id_field(row, f"line{number}"), question, gold, source, style)


def _svamp(row: Row, number: int, source: str, style: str) -> Prompt:
    if "question_concat" in row:
        question = text_field(row, ("question_concat",)).strip()
    else:
        body, asked = (text_field(row, (name,)).strip() for name in ("Body", "Question"))
        question = body + (" " if body[-1] in ".?!" else ", ") + asked
    value = row.get("Answer")
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        gold = Fraction(str(value).replace(",", ""))
    except (ValueError, ZeroDivisionError):
        raise Fault(f"'Answer' must be a number, not {kind_of(value)}.", "14.0") from None
    name = id_field({"id": row.get("ID", f"line{number}")}, "")
    return _number_prompt(name, question, gold, source, style)


def _arc(row: Row, number: int, source: str, style: str) -> Prompt:
    question = row.get("question")
    if isinstance(question, dict):  # AI2's own files
        pairs = []
        for choice in _list_field(question, "choices"):
            if not isinstance(choice, dict):
                raise Fault(f"a choice must be an object, not {kind_of(choice)}.", "as published")
            pairs.append((choice.get("label"), choice.get("text")))
        stem = text_field(question, ("stem",)).strip()
    else:
        stem, choices = text_field(row, ("question",)).strip(), row.get("choices")
        if not isinstance(choices, dict):
            raise Fault(
                f"'choices' must hold 'text' and 'label', not be {kind_of(choices)}.",
                "CSV holds no lists; take JSONL" if isinstance(choices, str) else "as published",
            )
        texts, labels = _list_field(choices, "text"), _list_field(choices, "label")
        if len(texts) != len(labels):
            raise Fault(f"{len(texts)} texts and {len(labels)} labels.", "one label a choice")
        pairs = list(zip(labels, texts, strict=True))
    key = text_field(row, ("answerKey",)).strip()
    return _choice_prompt(id_field(row, f"line{number}"), stem, pairs, key, source, style)


def _mmlu(row: Row, number: int, source: str, style: str) -> Prompt:
    texts, answer = _list_field(row, "choices"), row.get("answer")
    labels = string.ascii_uppercase[: len(texts)]
    if isinstance(answer, str):
        key = answer.strip()
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(labels):
        key = labels[answer]
    else:
        raise Fault(
            f"'answer' must be from 0 to {len(texts) - 1}, or a letter.", "MMLU counts from 0"
        )
    subject = row.get("subject") or "mmlu"
    pairs = list(zip(labels, texts, strict=True))
    question = text_field(row, ("question",)).strip()
    return _choice_prompt(f"{subject}/line{number}", question, pairs, key, source, style)


def _mmlu_fields(row: Row, number: int, source: str, style: str) -> Prompt:
    made = {
        "question": row["question"],
        "choices": [row[label] for label in "ABCD"],
        "answer": row["answer"],
        "subject": row.get("subject", ""),
    }
    return _mmlu(made, number, source, style)


@dataclass(frozen=True)
class TaskSet:
    """One published form: the columns that tell it, and a prompt of one of its rows."""

    name: str
    columns: tuple[str, ...]
    make: Callable[[Row, int, str, str], Prompt]


KNOWN = (
    TaskSet("ARC", ("question", "answerKey"), _arc),
    TaskSet("MMLU", ("question", "choices", "answer"), _mmlu),
    TaskSet("MMLU", FIELDS, _mmlu_fields),
    TaskSet("SVAMP", ("question_concat", "Answer"), _svamp),
    TaskSet("SVAMP", ("Body", "Question", "Answer"), _svamp),
    TaskSet("GSM8K", ("question", "answer"), _gsm8k),
)


def _bare(path: Path) -> bool:
    """Whether a file is Hendrycks' CSV: its first row is a problem, no header."""
    if path.suffix.lower() != ".csv":
        return False
    first = next(csv.reader(io.StringIO(text_of(path), newline="")), [])
    return len(first) == len(FIELDS) and first[-1].strip() in tuple("ABCD")


def _read_bare(path: Path) -> Iterator[Source]:
    subject = path.stem
    for ending in ("_test", "_dev", "_val"):
        subject = subject.removesuffix(ending)
    reader = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    try:
        for row in filter(None, reader):
            if len(row) != len(FIELDS):
                fault = f"{len(row)} fields, not {len(FIELDS)}."
                yield reader.line_num, Fault(fault, "question, four choices, letter")
            else:
                yield reader.line_num, dict(zip(FIELDS, row, strict=True)) | {"subject": subject}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error}).", "quotes?") from error


def recognise(path: Path) -> TaskSet | None:
    """The data set whose columns the first row has, or None."""
    for _, row in (_read_bare if _bare(path) else rows)(path):
        if isinstance(row, Fault):
            return None
        found = [known for known in KNOWN if set(known.columns) <= set(row)]
        return found[0] if found and not {"text", "prompt"} & set(row) else None
    return None


def _read_file(path: Path, style: str) -> list[Prompt]:
    known = recognise(path)
    if known is None:
        names = ", ".join(sorted({known.name for known in KNOWN}))
        raise DataError(
            f"{path}:1: no row of {names}.", "their columns are in docs/method.md, Tasks"
        )

    def make(row: Row, number: int, source: str) -> Iterable[Prompt]:
        return [known.make(row, number, source, style)]

    return read_records(path, make, _read_bare if _bare(path) else rows)


def read_task(path: Path, style: str) -> list[Prompt]:
    """Problems of a file, or of all such files of a folder, in order of their names.

    Args:
        path: of a data set in one of its published forms.
        style: of ``wording.STYLES``.

    Returns:
        Prompts of kind ``number`` or ``choice``, with gold answer, choices and ``file:line``.

    Raises:
        DataError: every fault of a file, with lines.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path, style)
    endings = (".jsonl", ".json", ".csv", ".parquet")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
    if not files:
        raise DataError(f"{path}: holds no problems.", "give JSONL, JSON, CSV or Parquet files")
    found: dict[str, Prompt] = {}
    for file in files:
        for prompt in _read_file(file, style):
            if prompt.id in found:
                raise DataError(
                    f"{prompt.source}: id {prompt.id!r} stands at {found[prompt.id].source} too.",
                    "give one split of a data set",
                )
            found[prompt.id] = prompt
    return list(found.values())
