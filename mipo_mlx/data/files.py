"""Files to rows, and rows to records: every fault of a file is told at once, with its line."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mipo_mlx.errors import DataError

SHOWN = 10  # faults told before "and n more"
Row = Mapping[str, Any]


class Named(Protocol):
    """A record with an id that no other of its file has."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Named)


class Fault(Exception):
    """What is wrong with a row, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What can go wrong with reading a file, as a DataError."""
    try:
        yield
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a directory.", "give a file") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.", "check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text.", "save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).", "check the path") from error


def text_of(path: Path) -> str:
    with _told(path):
        return path.read_text(encoding="utf-8-sig")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not blank, with their numbers."""
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield number, line


def _json_lines(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    for number, line in lines(path):
        try:
            yield number, _object(line)
        except Fault as fault:
            yield number, fault


def _json_list(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    """Rows of a JSON list, or of an object of objects; their number is their place, from 1."""
    rows = read_json(path)
    if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
        rows = list(rows.values())
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON list is needed, not {kind_of(rows)}.", "or use JSONL")
    for number, row in enumerate(rows, 1):
        fault = Fault(f"a JSON object is needed, not {kind_of(row)}.", "a list of objects")
        yield number, row if isinstance(row, dict) else fault


def read_json(path: Path) -> Any:
    """A whole JSON file."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}"
        message = f"{place}: not valid JSON (column {error.colno}: {error.msg})."
        raise DataError(message, "give a JSON list, or JSONL with the ending .jsonl") from error


def _csv(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    csv.field_size_limit(2**31 - 1)  # the standard limit of 128 KiB is less than some notes take
    with _told(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    count = len(reader.fieldnames or ())
                    fault = Fault(f"{count} fields are needed.", "see the first line")
                    yield reader.line_num, fault
                else:
                    yield reader.line_num, dict(row)
        except csv.Error as error:
            place = f"{path}:{reader.line_num}"
            raise DataError(f"{place}: not valid CSV ({error}).", "quotes?") from error


def _parquet(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    """Rows of a Parquet file, a batch in memory at a time; their number is their place, from 1."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with _told(path), path.open("rb") as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not valid Parquet.", "download it again") from error


def rows(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    """Rows of a file, by its ending."""
    readers = {".csv": _csv, ".json": _json_list, ".parquet": _parquet}
    return readers.get(path.suffix.lower(), _json_lines)(path)


def _object(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise Fault(
            f"not valid JSON (column {error.colno}: {error.msg}).", "one JSON object a line"
        ) from error
    if not isinstance(row, dict):
        raise Fault(f"a JSON object is needed, not {kind_of(row)}.", "one JSON object a line")
    return row


def kind_of(value: Any) -> str:
    """A JSON value's type, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def text_field(row: Row, names: tuple[str, ...]) -> str:
    """The first of the named fields, a string that is not blank."""
    for name in names:
        if name in row:
            value = row[name]
            if not isinstance(value, str):
                raise Fault(f"{name!r} must be a string, not {kind_of(value)}.", "put it in quotes")
            if not value.strip():
                raise Fault(f"{name!r} is empty.", "fill it, or take the line out")
            return value
    close = difflib.get_close_matches(names[0], list(row), n=1)
    found = ", ".join(sorted(row)) or "nothing"
    hint = f"did you mean {names[0]!r} instead of {close[0]!r}?" if close else f"found: {found}"
    raise Fault(f"field {names[0]!r} is missing.", hint)


def id_field(row: Row, fallback: str) -> str:
    """The row's id, or the fallback."""
    value = row.get("id", fallback)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Fault(f"'id' must be a string or a whole number, not {kind_of(value)}.", "rename it")
    return str(value)


def read_records(
    path: Path,
    make: Callable[[Row, int, str], Iterable[T]],
    read: Callable[[Path], Iterator[tuple[int, Row | Fault]]] = rows,
) -> list[T]:
    """All records of a file, each row making some, or one DataError with every fault."""
    faults: list[tuple[int, str, str]] = []
    records: list[T] = []
    seen: dict[str, int] = {}
    for number, row in read(path):
        try:
            if isinstance(row, Fault):
                raise row
            made = list(make(row, number, f"{path}:{number}"))
            for record in made:
                if record.id in seen:
                    raise Fault(
                        f"id {record.id!r} stands on line {seen[record.id]} too.", "rename one"
                    )
                seen[record.id] = number
        except Fault as fault:
            faults.append((number, fault.message, fault.hint))
            continue
        records += made
    if faults:
        shown = [f"{path}:{number}: {message}" for number, message, _ in faults[:SHOWN]]
        if len(faults) > SHOWN:
            shown.append(f"and {len(faults) - SHOWN} more")
        raise DataError("\n".join(shown), faults[0][2])
    if not records:
        raise DataError(f"{path}: holds no rows.", "one JSON object a line")
    return records
