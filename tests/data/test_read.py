"""What is read, what is refused, and what a refusal says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mipo_mlx.data.files import SHOWN
from mipo_mlx.data.pairs import pair_row
from mipo_mlx.data.readers import read_contexts, read_pairs, read_prompts
from mipo_mlx.errors import DataError


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "rows.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


GOOD = {"id": "ok", "text": "fine"}
CONTEXT_FAULTS = [
    ('{"id": "b", "text": ', r":2: not valid JSON \(column", "one JSON object"),
    ("[1, 2]", ":2: a JSON object is needed, not a list", "one JSON object"),
    ({"id": "b"}, ":2: field 'text' is missing", "found: id"),
    ({"id": "b", "txet": "x"}, ":2: field 'text' is missing", "did you mean 'text'"),
    ({"id": "b", "text": 7}, ":2: 'text' must be a string, not a number", "quotes"),
    ({"id": "b", "text": None}, ":2: 'text' must be a string, not null", "quotes"),
    ({"id": "b", "text": "  "}, ":2: 'text' is empty", "fill it"),
    ({"id": ["b"], "text": "x"}, ":2: 'id' must be", "rename"),
    ({"id": "ok", "text": "x"}, ":2: id 'ok' stands on line 1 too", "rename"),
    ({"id": "b", "text": "x", "facts": {"age": 3}}, ":2: 'facts' must be", "facts"),
    ({"id": "b", "text": "x", "user": 3}, ":2: 'user' must be a string, not a number", "whose"),
    ({"id": "b", "text": "x", "language": 3}, ":2: 'language' must be a string", "en"),
]


@pytest.mark.parametrize(("row", "message", "hint"), CONTEXT_FAULTS)
def test_a_bad_context_is_told_with_its_line(
    tmp_path: Path, row: Any, message: str, hint: str
) -> None:
    path = write(tmp_path, GOOD, row)
    with pytest.raises(DataError, match=message) as caught:
        read_contexts(path)
    assert caught.value.message.startswith(str(path))
    assert hint in caught.value.hint


PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
TURN = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yes"}
PAIR_FAULTS = [
    ({"prompt": "p", "chosen": "c"}, "field 'rejected' is missing"),
    ({"chosen": "c", "rejected": "r"}, "field 'prompt' is missing"),
    ({**PAIR, "chosen": [{"role": "user"}], "rejected": [ANSWER]}, "'chosen' needs messages"),
    ({**PAIR, "chosen": [ANSWER], "rejected": [ANSWER]}, "'prompt' must be a list"),
    (
        {"prompt": [TURN], "chosen": [ANSWER, ANSWER], "rejected": [ANSWER]},
        "need one assistant message",
    ),
    ({**PAIR, "chosen_token_ids": [1.5]}, "'chosen_token_ids' must be"),
    ({**PAIR, "ref_chosen_logps": "low"}, "'ref_chosen_logps' must be a number"),
    ({**PAIR, "rejected_finish_reason": "eos"}, "'rejected_finish_reason' must be"),
]


@pytest.mark.parametrize(("row", "message"), PAIR_FAULTS)
def test_a_bad_pair_is_told_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{message}"):
        read_pairs(write(tmp_path, PAIR, row))


def test_every_fault_is_told_at_once_and_many_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_contexts(write(tmp_path, *["broken"] * (SHOWN + 5)))
    lines = caught.value.message.splitlines()
    assert len(lines) == SHOWN + 1
    assert lines[-1] == "and 5 more"


def test_faults_never_show_the_text(tmp_path: Path) -> None:
    row = {"id": "a", "text": "my secret diary", "facts": "secret"}
    with pytest.raises(DataError) as caught:
        read_contexts(write(tmp_path, row))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("reader", [read_contexts, read_prompts, read_pairs])
def test_files_that_are_none(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(DataError, match="no such file"):
        reader(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match=r"is a directory|no notes"):
        reader(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        reader(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        reader(write(tmp_path, "", "   "))


def test_blank_lines_marks_and_line_ends_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "text": "a\\u2028b"}\r\n\r\n{"text": "c"}\r\n')
    rows = read_contexts(path)
    assert [(row.id, row.text) for row in rows] == [("1", "a\u2028b"), ("line3", "c")]
    assert rows[1].source == f"{path}:3"


def test_line_separators_within_strings_do_not_split_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\u2028b\u0085c"}\n', encoding="utf-8")
    assert [row.text for row in read_contexts(path)] == ["a\u2028b\u0085c"]


def test_prompts_keep_answers_of_checkable_kinds_only(tmp_path: Path) -> None:
    rows = read_prompts(
        write(
            tmp_path,
            {"prompt": "one plus one?", "answer": "2", "kind": "number"},
            {"text": "Say hi.", "answer": "hi"},
        )
    )
    assert [(row.kind, row.answer) for row in rows] == [("number", "2"), ("open", None)]
    with pytest.raises(DataError, match="'kind' must be"):
        read_prompts(write(tmp_path, {"text": "x", "kind": "essay"}))


def test_pairs_go_round_through_their_rows(tmp_path: Path) -> None:
    rows = [
        PAIR,
        {"prompt": [TURN], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "no"}]},
        {"chosen": [TURN, ANSWER], "rejected": [TURN, {**ANSWER, "content": "no"}]},
    ]
    first = read_pairs(write(tmp_path, *rows))
    again = read_pairs(write(tmp_path, *(pair_row(pair) for pair in first)))
    assert again == first
    assert first[0].messages == ({"role": "text", "content": "p"},)
    assert first[1].messages == first[2].messages == (TURN,)
    assert [pair.rejected.text for pair in first] == ["r", "no", "no"]


def test_csv_rows_with_quotes_and_line_ends_within_fields(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text('id,text\na,"I live in ""Riga"",\nby the sea."\nb,Short.\n')
    rows = read_contexts(path)
    assert [(row.id, row.text) for row in rows] == [
        ("a", 'I live in "Riga",\nby the sea.'),
        ("b", "Short."),
    ]
    assert rows[1].source == f"{path}:4"
    path.write_text("id,text\na,one,two\nb\nc,\n")
    with pytest.raises(DataError) as caught:
        read_contexts(path)
    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == ["2", "3", "4"]
    path.write_text('id,text\na,"open\n')
    with pytest.raises(DataError, match="not valid CSV"):
        read_contexts(path)


def test_a_json_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text('[{"id": "a", "text": "x"}, {"text": "y"}]')
    assert [row.id for row in read_contexts(path)] == ["a", "line2"]
    path.write_text('[{"id": "a", "text": "x"}, 3]')
    with pytest.raises(DataError, match=r"users\.json:2: a JSON object is needed"):
        read_contexts(path)
    path.write_text('[\n{"id": }]')
    with pytest.raises(DataError, match=r"users\.json:2: not valid JSON"):
        read_contexts(path)
    path.write_text('{"id": "a"}')
    with pytest.raises(DataError, match="a JSON list is needed, not an object"):
        read_contexts(path)


def test_notes_are_one_user(tmp_path: Path) -> None:
    (tmp_path / "notes" / "2026").mkdir(parents=True)
    (tmp_path / "notes" / ".hidden").mkdir()
    for name, text in {
        "b.md": "Second.",
        "a.txt": "First.",
        "2026/c.md": "Deep.",
        ".hidden/d.md": "Secret.",
        "e.png": "no text",
    }.items():
        (tmp_path / "notes" / name).write_text(text)
    (whole,) = read_contexts(tmp_path / "notes")
    assert whole.id == "notes"
    assert whole.text == "# 2026/c\n\nDeep.\n\n# a\n\nFirst.\n\n# b\n\nSecond."
    (single,) = read_contexts(tmp_path / "notes" / "b.md")
    assert (single.id, single.text) == ("b", "Second.")


def test_prompts_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "asks.md"
    path.write_text("# My questions\n\n- Plan my day.\n2. Who am I?\nWhere do I live?\n")
    found = [(row.text, row.source.rpartition(":")[2]) for row in read_prompts(path)]
    assert found == [("Plan my day.", "3"), ("Who am I?", "4"), ("Where do I live?", "5")]


def test_an_export_of_chatgpt_gives_what_the_user_wrote_in_order(tmp_path: Path) -> None:
    def node(role: str, when: float | None, *parts: object) -> dict[str, Any]:
        content = {"content_type": "text", "parts": list(parts)}
        return {"message": {"author": {"role": role}, "create_time": when, "content": content}}

    chats = [
        {
            "title": "later",
            "create_time": 20.0,
            "mapping": {
                "root": {"message": None},
                "1": node("user", 21.0, "I moved to Riga.", {"asset": "picture"}),
                "2": node("assistant", 22.0, "How nice!"),
            },
        },
        {"title": "first", "create_time": 1.0, "mapping": {"1": node("user", None, "I bake.")}},
    ]
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps(chats))
    (whole,) = read_contexts(path)
    assert whole.text == "I bake.\n\nI moved to Riga."
    path.write_text(json.dumps([{"title": "empty", "mapping": {}}]))
    with pytest.raises(DataError, match="holds no text"):
        read_contexts(path)


def test_a_long_note_in_csv_is_read_whole(tmp_path: Path) -> None:
    note = "word " * 60_000
    path = tmp_path / "users.csv"
    path.write_text(f'id,text\nann,"{note}"\n', encoding="utf-8")
    (user,) = read_contexts(path)
    assert user.text == note
