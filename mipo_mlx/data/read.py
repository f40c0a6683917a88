"""JSON lines to records. Every fault of a file is told at once, with its line; never the texts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, PreferencePair, Prompt, Response

SHOWN = 10  # faults told before "and n more"
Row = Mapping[str, Any]
T = TypeVar("T", Context, Prompt, PreferencePair)


class _Fault(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a directory.", "give a JSONL file") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.", "check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text.", "save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).", "check the path") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _object(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _Fault(
            f"not valid JSON (column {error.colno}: {error.msg}).", "one JSON object a line"
        ) from error
    if not isinstance(row, dict):
        raise _Fault(f"a JSON object is needed, not {_kind(row)}.", "one JSON object a line")
    return row


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _text(row: Row, names: tuple[str, ...]) -> str:
    """The first of the named fields, a string that is not blank."""
    for name in names:
        if name in row:
            value = row[name]
            if not isinstance(value, str):
                raise _Fault(f"{name!r} must be a string, not {_kind(value)}.", "put it in quotes")
            if not value.strip():
                raise _Fault(f"{name!r} is empty.", "fill it, or take the line out")
            return value
    close = difflib.get_close_matches(names[0], list(row), n=1)
    found = ", ".join(sorted(row)) or "nothing"
    hint = f"did you mean {names[0]!r} instead of {close[0]!r}?" if close else f"found: {found}"
    raise _Fault(f"field {names[0]!r} is missing.", hint)


def _id(row: Row, fallback: str) -> str:
    value = row.get("id", fallback)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _Fault(f"'id' must be a string or a whole number, not {_kind(value)}.", "rename it")
    return str(value)


def _read(path: Path, make: Callable[[Row, int, str], T]) -> list[T]:
    """All records of a file, or one DataError with every fault."""
    faults: list[tuple[int, str, str]] = []
    records: list[T] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            record = make(_object(line), number, f"{path}:{number}")
            if record.id in seen:
                raise _Fault(
                    f"id {record.id!r} stands on line {seen[record.id]} too.", "rename one"
                )
        except _Fault as fault:
            faults.append((number, fault.message, fault.hint))
            continue
        seen[record.id] = number
        records.append(record)
    if faults:
        shown = [f"{path}:{number}: {message}" for number, message, _ in faults[:SHOWN]]
        if len(faults) > SHOWN:
            shown.append(f"and {len(faults) - SHOWN} more")
        raise DataError("\n".join(shown), faults[0][2])
    if not records:
        raise DataError(f"{path}: holds no rows.", "one JSON object a line")
    return records


def _context(row: Row, number: int, source: str) -> Context:
    facts = row.get("facts", {})
    if not isinstance(facts, dict) or not all(isinstance(v, str) for v in facts.values()):
        raise _Fault("'facts' must be an object of strings.", '{"facts": {"town": "..."}}')
    text = _text(row, ("text", "context"))
    return Context(_id(row, f"line{number}"), text, dict(facts), source)


def _prompt(row: Row, number: int, source: str) -> Prompt:
    answer, kind = row.get("answer"), row.get("kind", "open")
    if answer is not None and not isinstance(answer, str):
        raise _Fault(f"'answer' must be a string, not {_kind(answer)}.", "put it in quotes")
    if kind not in ("open", "number", "choice"):
        raise _Fault("'kind' must be open, number or choice.", "leave it out for open prompts")
    if answer is not None and kind == "open":
        answer = None
    return Prompt(_id(row, f"line{number}"), _text(row, ("text", "prompt")), answer, kind, source)


def read_contexts(path: Path) -> list[Context]:
    """Contexts, one ``{"id", "text", "facts"?}`` a line.

    Raises:
        DataError: every fault of the file, with lines.
    """
    return _read(Path(path), _context)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts, one ``{"id"?, "text", "answer"?, "kind"?}`` a line.

    Raises:
        DataError: every fault of the file, with lines.
    """
    return _read(Path(path), _prompt)


def _turns(value: Any, name: str) -> list[dict[str, str]]:
    """A list of chat messages, checked."""
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or not all(
            isinstance(turn.get(key), str) for key in ("role", "content")
        ):
            raise _Fault(f"{name!r} needs messages with 'role' and 'content'.", "TRL's form")
        turns.append({"role": turn["role"], "content": turn["content"]})
    if not turns:
        raise _Fault(f"{name!r} is empty.", "fill it, or take the line out")
    return turns


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Fault(f"{name!r} must be a number, not {_kind(value)}.", "nats, summed")
    return float(value)


def _response(row: Row, side: str, text: str) -> Response:
    ids = row.get(f"{side}_token_ids", [])
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise _Fault(f"'{side}_token_ids' must be a list of whole numbers.", "or leave it out")
    reason = row.get(f"{side}_finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise _Fault(f"'{side}_finish_reason' must be stop or length.", "or leave it out")
    return Response(text, tuple(ids), reason)


def _conversation(row: Row) -> tuple[list[dict[str, str]], str, str]:
    """Messages of the prompt, and the texts of both answers; a shared start may be the prompt."""
    sides = [_turns(row[side], side) for side in ("chosen", "rejected")]
    if "prompt" in row:
        if not isinstance(row["prompt"], list):
            raise _Fault("'prompt' must be a list of messages here.", "as 'chosen' is")
        messages = _turns(row["prompt"], "prompt")
    else:
        messages = sides[0][:-1]
        if not messages or sides[1][:-1] != messages:
            raise _Fault("field 'prompt' is missing.", "or let both sides start with it")
        sides = [turns[-1:] for turns in sides]
    if any(len(turns) != 1 or turns[0]["role"] != "assistant" for turns in sides):
        raise _Fault("'chosen' and 'rejected' need one assistant message.", "TRL's form")
    return messages, sides[0][0]["content"], sides[1][0]["content"]


def _pair(row: Row, number: int, source: str) -> PreferencePair:
    for side in ("chosen", "rejected"):
        if side not in row:
            _text(row, (side,))
    if isinstance(row["chosen"], list) and isinstance(row["rejected"], list):
        messages, chosen, rejected = _conversation(row)
    else:
        messages = [{"role": "text", "content": _text(row, ("prompt",))}]
        chosen, rejected = _text(row, ("chosen",)), _text(row, ("rejected",))
    names = ("context_id", "prompt_id", "negative_context_id", "negative_prompt_id")
    return PreferencePair(
        id=_id(row, f"line{number}"),
        messages=tuple(messages),
        chosen=_response(row, "chosen", chosen),
        rejected=_response(row, "rejected", rejected),
        ref_chosen_logps=_number(row, "ref_chosen_logps"),
        ref_rejected_logps=_number(row, "ref_rejected_logps"),
        pmi=_number(row, "pmi"),
        **{name: str(row.get(name, "")) for name in names},
    )


def read_pairs(path: Path) -> list[PreferencePair]:
    """Preference pairs in TRL's form, conversational or plain, with our fields where they stand.

    Raises:
        DataError: every fault of the file, with lines.
    """
    return _read(Path(path), _pair)
