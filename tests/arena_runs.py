"""A run directory with answers of known owners, as ``mipo eval`` leaves it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def row(number: int, **more: str) -> dict[str, str]:
    """One prompt of one of three users; whose an answer is shows in its first letter."""
    return {
        "context_id": f"user-{number % 3}",
        "user": f"user-{number % 3}",
        "prompt_id": f"prompt-{number}",
        "context": f"Lives in town {number % 3}.",
        "prompt": f"Question {number}?",
        "base": f"Plain words {number}.",
        "adapter": f"Tuned words {number}.",
        **more,
    }


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def make_run(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "eval.json").write_text("{}", encoding="utf-8")
    write_rows(path / "answers.jsonl", rows)
    return path


def better(answers: tuple[str, str], start: str = "Tuned") -> str:
    """The choice of a voter who always likes answers that start so."""
    return "1" if answers[0].startswith(start) else "2"
