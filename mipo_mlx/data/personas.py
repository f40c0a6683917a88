"""Public data sets in the form they are published in: whose contexts they hold, and who asks what.

Told by their columns, from JSONL, JSON, CSV or Parquet. A prompt of a data set belongs to one user,
and is asked of that user alone (``Prompt.context_id``).

* PRISM (``HannahRoseKirk/prism-alignment``): ``survey.jsonl`` are contexts, ``conversations.jsonl``
  prompts.
* Community Alignment (``facebook/community-alignment-dataset``): every other conversation of an
  annotator makes the context, the rest the prompts, so no prompt stands in its own context.
* Multifaceted-Bench (``kaist-ai/Multifaceted-Bench``): system message and prompt of each row.
* PrefEval (``amazon-science/PrefEval``): preference and question of each row.
* Synthetic-Persona-Chat (``google/Synthetic-Persona-Chat``): two contexts a row, no prompts.

Not covered: rated answers of PRISM and Community Alignment, which MIPO has no use for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mipo_mlx.data.files import Fault, Row, kind_of, read_records, rows, text_field
from mipo_mlx.errors import DataError
from mipo_mlx.types import Context, Prompt

T = TypeVar("T", Context, Prompt)
ABSENT = ("", "nan", "none", "null", "empty string")  # how exports write a missing text
TURNS = ("first", "second", "third", "fourth")


def _maybe(row: Row, name: str) -> str:
    """A text field that may be missing, null or a placeholder."""
    value = row.get(name)
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if not isinstance(value, str):
        raise Fault(f"{name!r} must be a string, not {kind_of(value)}.", "as published")
    return "" if value.strip().casefold() in ABSENT else value.strip()


def _name(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Fault(f"{name!r} must be a string or a whole number, not {kind_of(value)}.", "an id")
    return str(value)


def _prism_person(row: Row, number: int, source: str) -> Iterable[Context]:
    parts = {
        "About me": _maybe(row, "self_description"),
        "How you should be": _maybe(row, "system_string"),
    }
    stated = row.get("stated_prefs") or {}
    if not isinstance(stated, dict):
        raise Fault(f"'stated_prefs' must be an object, not {kind_of(stated)}.", "as published")
    marks = {k: v for k, v in stated.items() if type(v) in (int, float) and k != "other"}
    ranked = sorted(marks.items(), key=lambda item: (-item[1], item[0]))
    parts["What matters to me, of 100"] = ", ".join(f"{name} {mark:g}" for name, mark in ranked)
    text = "\n".join(f"{title}: {body}" for title, body in parts.items() if body)
    if text:
        yield Context(_name(row, "user_id"), text, source=source)


def _prism_opening(row: Row, number: int, source: str) -> Iterable[Prompt]:
    text = text_field(row, ("opening_prompt",)).strip()
    yield Prompt(
        _name(row, "conversation_id"), text, source=source, context_id=_name(row, "user_id")
    )


def _annotator_of(id: str) -> str:
    return id.partition("\x1f")[0]


def _conversation_id(row: Row) -> str:
    return f"{_name(row, 'annotator_id')}\x1f{_name(row, 'conversation_id')}"


def _alignment_said(row: Row, number: int, source: str) -> Iterable[Context]:
    parts = []
    for turn in TURNS:
        asked = _maybe(row, f"{turn}_turn_prompt")
        best = _maybe(row, f"{turn}_turn_preferred_response")
        if best and not best.startswith("response_"):
            raise Fault(f"'{turn}_turn_preferred_response' must name a response.", "response_a")
        liked = _maybe(row, f"{turn}_turn_{best}") if best else ""
        if asked:
            parts.append(f"I asked: {asked}")
            parts += [f"I liked this answer best: {liked}"] if liked else []
            why = _maybe(row, f"{turn}_turn_feedback")
            parts += [f"Because: {why}"] if why else []
    if _maybe(row, "first_turn_prompt"):
        language = _maybe(row, "assigned_lang")
        yield Context(_conversation_id(row), "\n".join(parts), source=source, language=language)


def _alignment_prompt(row: Row, number: int, source: str) -> Iterable[Prompt]:
    text = _maybe(row, "first_turn_prompt")
    if text:
        yield Prompt(
            _conversation_id(row), text, source=source, context_id=_name(row, "annotator_id")
        )


def _by_annotator(records: list[T]) -> dict[str, list[T]]:
    owners: dict[str, list[T]] = {}
    for record in records:
        owners.setdefault(_annotator_of(record.id), []).append(record)
    return owners


def _join_said(records: list[Context]) -> list[Context]:
    """The first, third, fifth ... conversation of each annotator as one context."""
    return [
        replace(said[0], id=owner, text="\n\n".join(part.text for part in said[::2]))
        for owner, said in _by_annotator(records).items()
    ]


def _keep_rest(records: list[Prompt]) -> list[Prompt]:
    """The second, fourth ... conversation of each annotator."""
    return [
        replace(prompt, id=prompt.id.replace("\x1f", "/"))
        for asked in _by_annotator(records).values()
        for prompt in asked[1::2]
    ]


def _context_of(field: str) -> Callable[[Row, int, str], Iterable[Context]]:
    def make(row: Row, number: int, source: str) -> Iterable[Context]:
        yield Context(f"line{number}", text_field(row, (field,)).strip(), source=source)

    return make


def _prompt_of(field: str) -> Callable[[Row, int, str], Iterable[Prompt]]:
    def make(row: Row, number: int, source: str) -> Iterable[Prompt]:
        name = f"line{number}"
        yield Prompt(name, text_field(row, (field,)).strip(), source=source, context_id=name)

    return make


def _personas(row: Row, number: int, source: str) -> Iterable[Context]:
    for side in (1, 2):
        text = text_field(row, (f"user {side} personas",)).strip()
        yield Context(f"line{number}/{side}", text, source=source)


def _unique(records: list[Context]) -> list[Context]:
    """The first of those with the same text."""
    return list({record.text: record for record in reversed(records)}.values())[::-1]


@dataclass(frozen=True)
class DataSet:
    """How one published file is read.

    Attributes:
        name: for messages.
        columns: that tell it.
        contexts: of a row; None where the file holds none.
        prompts: likewise.
        join: from the contexts of all rows to users.
        keep: from the prompts of all rows to those that may be asked.
        instead: what to give where one of them is None.
    """

    name: str
    columns: tuple[str, ...]
    contexts: Callable[[Row, int, str], Iterable[Context]] | None = None
    prompts: Callable[[Row, int, str], Iterable[Prompt]] | None = None
    join: Callable[[list[Context]], list[Context]] = list
    keep: Callable[[list[Prompt]], list[Prompt]] = list
    instead: str = ""


KNOWN = (
    DataSet(
        "PRISM's survey",
        ("user_id", "self_description", "system_string"),
        contexts=_prism_person,
        instead="conversations.jsonl holds the prompts",
    ),
    DataSet(
        "PRISM's conversations",
        ("conversation_id", "user_id", "opening_prompt"),
        prompts=_prism_opening,
        instead="survey.jsonl holds the contexts",
    ),
    DataSet(
        "PRISM's utterances",
        ("utterance_id", "user_id", "user_prompt"),
        instead="take survey.jsonl for contexts and conversations.jsonl for prompts",
    ),
    DataSet(
        "Community Alignment",
        ("conversation_id", "annotator_id", "first_turn_prompt"),
        _alignment_said,
        _alignment_prompt,
        _join_said,
        _keep_rest,
    ),
    DataSet(
        "Multifaceted-Bench", ("system", "prompt", "rubrics"), _context_of("system"),
        _prompt_of("prompt"),
    ),
    DataSet(
        "Multifaceted-Bench", ("system", "prompt", "rubric"), _context_of("system"),
        _prompt_of("prompt"),
    ),
    DataSet(
        "Multifaceted-Bench before its release", ("system_prompt", "user_prompt"),
        _context_of("system_prompt"), _prompt_of("user_prompt"),
    ),
    DataSet(
        "Synthetic-Persona-Chat",
        ("user 1 personas", "user 2 personas"),
        contexts=_personas,
        join=_unique,
        instead="it holds no requests; give prompts of your own",
    ),
    DataSet(
        "PrefEval", ("preference", "question"), _context_of("preference"), _prompt_of("question")
    ),
)  # fmt: skip


def recognise(path: Path) -> DataSet | None:
    """The data set whose columns the first row has, or None."""
    for _, row in rows(path):
        if isinstance(row, Fault):
            return None
        found = [known for known in KNOWN if set(known.columns) <= set(row)]
        return found[0] if found and "text" not in row else None
    return None


def _refuse(path: Path, known: DataSet, what: str) -> DataError:
    return DataError(f"{path}: {known.name} holds no {what}.", known.instead)


def contexts(path: Path, known: DataSet) -> list[Context]:
    """Users of a data set.

    Raises:
        DataError: every fault of the file, with lines; or it holds no contexts.
    """
    if known.contexts is None:
        raise _refuse(path, known, "contexts")
    return known.join(read_records(path, known.contexts))


def prompts(path: Path, known: DataSet) -> list[Prompt]:
    """Prompts of a data set, each with its user.

    Raises:
        DataError: every fault of the file, with lines; or it holds no prompts.
    """
    if known.prompts is None:
        raise _refuse(path, known, "prompts")
    return known.keep(read_records(path, known.prompts))
