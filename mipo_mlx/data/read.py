"""Files to records. Every fault of a file is told at once, with its line; never the texts.

Contexts and prompts come as JSONL, a JSON list or CSV; besides, a text file is one context or a
prompt a line, a folder of notes is one context, and so is an export of ChatGPT's conversations.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, PreferencePair, Prompt, Response

SHOWN = 10  # faults told before "and n more"
TEXT_ENDINGS = (".md", ".txt")
Row = Mapping[str, Any]
T = TypeVar("T", Context, Prompt, PreferencePair)


class _Fault(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a directory.", "give a file") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.", "check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text.", "save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).", "check the path") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if line.strip():
            yield number, line


def _json_lines(path: Path) -> Iterator[tuple[int, Row | _Fault]]:
    for number, line in _lines(path):
        try:
            yield number, _object(line)
        except _Fault as fault:
            yield number, fault


def _json_list(path: Path) -> Iterator[tuple[int, Row | _Fault]]:
    """Rows of a JSON list; their number is their place in it, from 1."""
    rows = _json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON list is needed, not {_kind(rows)}.", "or use JSONL")
    for number, row in enumerate(rows, 1):
        fault = _Fault(f"a JSON object is needed, not {_kind(row)}.", "a list of objects")
        yield number, row if isinstance(row, dict) else fault


def _json(path: Path) -> Any:
    try:
        return json.loads(_text_of(path))
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}"
        message = f"{place}: not valid JSON (column {error.colno}: {error.msg})."
        raise DataError(message, "give a JSON list, or JSONL with the ending .jsonl") from error


def _csv(path: Path) -> Iterator[tuple[int, Row | _Fault]]:
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                yield reader.line_num, _Fault(f"{count} fields are needed.", "see the first line")
            else:
                yield reader.line_num, dict(row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid CSV ({error}).", "quotes?") from error


def _rows(path: Path) -> Iterator[tuple[int, Row | _Fault]]:
    """Rows of a file, by its ending."""
    readers = {".csv": _csv, ".json": _json_list}
    return readers.get(path.suffix.lower(), _json_lines)(path)


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
    for number, row in _rows(path):
        try:
            if isinstance(row, _Fault):
                raise row
            record = make(row, number, f"{path}:{number}")
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


def _whole(path: Path, text: str, id: str = "") -> list[Context]:
    """One context that is a whole file or folder."""
    if not text.strip():
        raise DataError(f"{path}: holds no text.", "give notes, or take it out")
    return [Context(id or path.stem, text.strip(), source=f"{path}:1")]


def _notes(folder: Path) -> list[Context]:
    """All ``.md`` and ``.txt`` files of a folder, in the order of their names, as one context."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in TEXT_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"{folder}: holds no notes (.md or .txt).", "give a folder with notes")
    parts = [f"# {path.relative_to(folder).with_suffix('')}\n\n{_text_of(path)}" for path in files]
    return _whole(folder, "\n\n".join(part.strip() for part in parts), folder.name)


def _chats(path: Path) -> list[Context] | None:
    """What the user wrote in an export of ChatGPT (``conversations.json``); None for other JSON."""
    found = _json(path)
    if not isinstance(found, list) or not all(
        isinstance(chat, dict) and isinstance(chat.get("mapping"), dict) for chat in found
    ):
        return None
    said: list[tuple[float, str]] = []
    for chat in found:
        for node in chat["mapping"].values():
            message = (node or {}).get("message") or {}
            if (message.get("author") or {}).get("role") != "user":
                continue
            parts = (message.get("content") or {}).get("parts") or []
            text = "\n".join(part for part in parts if isinstance(part, str)).strip()
            when = message.get("create_time") or chat.get("create_time") or 0.0
            said += [(float(when), text)] if text else []
    return _whole(path, "\n\n".join(text for _, text in sorted(said, key=lambda item: item[0])))


def read_contexts(path: Path) -> list[Context]:
    """Contexts, a user each: ``{"id", "text", "facts"?}`` a row, or one file or folder of notes.

    Raises:
        DataError: every fault of the file, with lines.
    """
    path = Path(path)
    if path.is_dir():
        return _notes(path)
    if path.suffix.lower() in TEXT_ENDINGS:
        return _whole(path, _text_of(path))
    if path.suffix.lower() == ".json":
        chats = _chats(path)
        if chats:
            return chats
    return _read(path, _context)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts: ``{"id"?, "text", "answer"?, "kind"?}`` a row, or a line each of a text file.

    Raises:
        DataError: every fault of the file, with lines.
    """
    path = Path(path)
    if path.suffix.lower() not in TEXT_ENDINGS:
        return _read(path, _prompt)
    marked = [
        (number, re.sub(r"^\s*([-*+]|\d+[.)])\s+", "", line)) for number, line in _lines(path)
    ]
    prompts = [
        Prompt(f"line{number}", text.strip(), source=f"{path}:{number}")
        for number, text in marked
        if not text.startswith("#")
    ]
    if not prompts:
        raise DataError(f"{path}: holds no prompts.", "one prompt a line")
    return prompts


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
