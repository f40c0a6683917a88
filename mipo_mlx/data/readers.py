"""Files to records. Every fault of a file is told at once, with its line; never the texts.

Contexts and prompts come as JSONL, a JSON list or CSV; besides, a text file is one context or a
prompt a line, a folder of notes is one context, and so is an export of ChatGPT's conversations.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mipo_mlx.data import benchmarks, personas
from mipo_mlx.data.files import (
    Fault,
    Row,
    id_field,
    kind_of,
    lines,
    read_json,
    read_records,
    text_field,
    text_of,
)
from mipo_mlx.errors import DataError
from mipo_mlx.grading.benchmark_prompts import STYLES
from mipo_mlx.types import Context, PreferencePair, Prompt, Response

TEXT_ENDINGS = (".md", ".txt")


def _context(row: Row, number: int, source: str) -> list[Context]:
    facts = row.get("facts", {})
    if not isinstance(facts, dict) or not all(isinstance(v, str) for v in facts.values()):
        raise Fault("'facts' must be an object of strings.", '{"facts": {"town": "..."}}')
    text = text_field(row, ("text", "context"))
    language = row.get("language", "")
    if not isinstance(language, str):
        raise Fault(f"'language' must be a string, not {kind_of(language)}.", '"en"')
    user = row.get("user", "")
    if not isinstance(user, str):
        raise Fault(f"'user' must be a string, not {kind_of(user)}.", "whose context it is")
    return [Context(id_field(row, f"line{number}"), text, dict(facts), source, language, user)]


def _prompt(row: Row, number: int, source: str) -> list[Prompt]:
    answer, kind = row.get("answer"), row.get("kind", "open")
    if answer is not None and not isinstance(answer, str):
        raise Fault(f"'answer' must be a string, not {kind_of(answer)}.", "put it in quotes")
    if kind not in ("open", "number", "choice"):
        raise Fault("'kind' must be open, number or choice.", "leave it out for open prompts")
    if answer is not None and kind == "open":
        answer = None
    owner = row.get("context_id", "")
    if not isinstance(owner, str):
        raise Fault(f"'context_id' must be a string, not {kind_of(owner)}.", "the id of a context")
    text = text_field(row, ("text", "prompt"))
    return [Prompt(id_field(row, f"line{number}"), text, answer, kind, source, owner)]


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
    parts = [f"# {path.relative_to(folder).with_suffix('')}\n\n{text_of(path)}" for path in files]
    return _whole(folder, "\n\n".join(part.strip() for part in parts), folder.name)


def _chats(path: Path) -> list[Context] | None:
    """What the user wrote in an export of ChatGPT (``conversations.json``); None for other JSON."""
    found = read_json(path)
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
        return _whole(path, text_of(path))
    if path.suffix.lower() == ".json":
        chats = _chats(path)
        if chats:
            return chats
    known = personas.recognise(path)
    return personas.contexts(path, known) if known else read_records(path, _context)


def read_prompts(path: Path, style: str = STYLES[0]) -> list[Prompt]:
    """Prompts: ``{"id"?, "text", "answer"?, "kind"?}`` a row, or a line each of a text file.

    Problems of a public data set are put in the wording of ``style``.

    Raises:
        DataError: every fault of the file, with lines.
    """
    path = Path(path)
    if path.suffix.lower() not in TEXT_ENDINGS:
        known = personas.recognise(path)
        if known:
            return personas.prompts(path, known)
        if benchmarks.recognise(path):
            return benchmarks.read_task(path, style)
        return read_records(path, _prompt)
    marked = [(number, re.sub(r"^\s*([-*+]|\d+[.)])\s+", "", line)) for number, line in lines(path)]
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
            raise Fault(f"{name!r} needs messages with 'role' and 'content'.", "TRL's form")
        turns.append({"role": turn["role"], "content": turn["content"]})
    if not turns:
        raise Fault(f"{name!r} is empty.", "fill it, or take the line out")
    return turns


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault(f"{name!r} must be a number, not {kind_of(value)}.", "nats, summed")
    return float(value)


def _response(row: Row, side: str, text: str) -> Response:
    ids = row.get(f"{side}_token_ids", [])
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise Fault(f"'{side}_token_ids' must be a list of whole numbers.", "or leave it out")
    reason = row.get(f"{side}_finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise Fault(f"'{side}_finish_reason' must be stop or length.", "or leave it out")
    return Response(text, tuple(ids), reason)


def _conversation(row: Row) -> tuple[list[dict[str, str]], str, str]:
    """Messages of the prompt, and the texts of both answers; a shared start may be the prompt."""
    sides = [_turns(row[side], side) for side in ("chosen", "rejected")]
    if "prompt" in row:
        if not isinstance(row["prompt"], list):
            raise Fault("'prompt' must be a list of messages here.", "as 'chosen' is")
        messages = _turns(row["prompt"], "prompt")
    else:
        messages = sides[0][:-1]
        if not messages or sides[1][:-1] != messages:
            raise Fault("field 'prompt' is missing.", "or let both sides start with it")
        sides = [turns[-1:] for turns in sides]
    if any(len(turns) != 1 or turns[0]["role"] != "assistant" for turns in sides):
        raise Fault("'chosen' and 'rejected' need one assistant message.", "TRL's form")
    return messages, sides[0][0]["content"], sides[1][0]["content"]


def _pair(row: Row, number: int, source: str) -> list[PreferencePair]:
    for side in ("chosen", "rejected"):
        if side not in row:
            text_field(row, (side,))
    if isinstance(row["chosen"], list) and isinstance(row["rejected"], list):
        messages, chosen, rejected = _conversation(row)
    else:
        messages = [{"role": "text", "content": text_field(row, ("prompt",))}]
        chosen, rejected = text_field(row, ("chosen",)), text_field(row, ("rejected",))
    names = ("context_id", "prompt_id", "negative_context_id", "negative_prompt_id", "block")
    pair = PreferencePair(
        id=id_field(row, f"line{number}"),
        messages=tuple(messages),
        chosen=_response(row, "chosen", chosen),
        rejected=_response(row, "rejected", rejected),
        ref_chosen_logps=_number(row, "ref_chosen_logps"),
        ref_rejected_logps=_number(row, "ref_rejected_logps"),
        pmi=_number(row, "pmi"),
        **{name: str(row.get(name, "")) for name in names},
    )
    return [pair]


def read_pairs(path: Path) -> list[PreferencePair]:
    """Preference pairs in TRL's form, conversational or plain, with our fields where they stand.

    Raises:
        DataError: every fault of the file, with lines.
    """
    return read_records(Path(path), _pair)
