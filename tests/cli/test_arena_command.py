"""``mipo arena``: what the page lets in, what it shows, and the same votes in a terminal."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from arena_runs import better, make_run, row
from mipo_cli.app import app
from mipo_cli.arena import app as page_module
from mipo_cli.arena.app import make_app
from mipo_cli.arena.terminal import plain
from mipo_mlx.errors import MipoError
from mipo_mlx.evaluation.human_votes import Arena, open_arena
from mipo_mlx.run_dir.journal import Journal

CONNECT = socket.socket.connect  # before the suite refuses it
HOST, TOKEN = "127.0.0.1:4321", "a-token_of-43-characters"
HOSTILE = (
    "</div><script>alert(1)</script><img src=\"http://x.invalid/a\" onerror='f()'>{{7*7}} &amp;"
)


class Page(HTMLParser):
    """Tags, texts of the ``text`` boxes, buttons and hidden fields of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self.open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = "text" if dict(attrs).get("class") == "text" else tag
        if self.open == "text":
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "text":
            self.texts[-1] += data
        elif self.open in ("script", "style", "title"):
            self.raw[self.open] = data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def field(self, name: str) -> str:
        value = next(attrs["value"] for _, attrs in self.tags if attrs.get("name") == name)
        assert value
        return value


def client_of(arena: Arena, **more: Any) -> TestClient:
    stop = more.pop("stop", lambda: None)
    guarded = make_app(arena, TOKEN, HOST, stop)
    return TestClient(guarded, base_url=f"http://{HOST}", follow_redirects=True, **more)


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return open_arena(make_run(tmp_path / "run", [row(n) for n in range(4)]), 0)


@pytest.fixture
def client(arena: Arena) -> TestClient:
    return client_of(arena)


PATHS = ["", "result", "votes.jsonl", "votes.csv", "vote", "undo", "quit", "absent"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("start", "headers"),
    [
        ("/", {}),
        ("/a-token_of-43-character/", {}),
        ("/a-token_of-43-charactersx/", {}),
        ("/tök%ff\udcff/".encode("utf-8", "ignore").decode(), {}),
        (f"/x/{TOKEN}/", {}),
        (f"/{TOKEN}/", {"Host": "127.0.0.1"}),
        (f"/{TOKEN}/", {"Host": "localhost:4321"}),
        (f"/{TOKEN}/", {"Host": "evil.example"}),
        (f"/{TOKEN}/", {"Host": "127.0.0.1:4321.evil.example"}),
        (f"/{TOKEN}/", {"Origin": "http://evil.example"}),
        (f"/{TOKEN}/", {"Origin": "null"}),
    ],
)
def test_who_has_not_the_token_or_comes_from_elsewhere_is_refused(
    arena: Arena, client: TestClient, path: str, start: str, headers: dict[str, str]
) -> None:
    assert arena.current
    form = {"duel": arena.current.id, "choice": "1"}
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        data = form if method == "POST" else None
        answer = client.request(method, start + path, headers=headers, data=data)
        assert answer.status_code == 403, (method, answer.text)
        assert "Question" not in answer.text and "words" not in answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert not arena.votes


def test_the_token_is_compared_in_constant_time(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def compare(first: bytes, second: bytes) -> bool:
        seen.append((first, second))
        return first == second

    monkeypatch.setattr(page_module.secrets, "compare_digest", compare)
    client.get("/guess/")
    client.get("/")
    assert seen == [(b"guess", TOKEN.encode()), (b"", TOKEN.encode())]


@pytest.mark.parametrize("path", ["", "result"])
def test_a_page_holds_all_it_needs_and_says_so(client: TestClient, path: str) -> None:
    answer = client.get(f"/{TOKEN}/{path}", headers={"Origin": f"http://{HOST}"})
    assert answer.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    page = Page(answer.text)
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.raw[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    for name, value in {
        "cache-control": "no-store",
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }.items():
        assert answer.headers[name] == value
    assert "set-cookie" not in answer.headers
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "srcset"):
            value = attrs.get(name) or ""
            assert not re.match(r"(\w+:)?//|javascript:", value), (tag, value)
        assert not any(name.startswith("on") or name == "style" for name in attrs)
    assert "url(" not in page.raw["style"] and "@import" not in page.raw["style"]


def test_texts_of_models_stay_texts(tmp_path: Path) -> None:
    parts = ("prompt", "context", "base", "adapter")
    hostile = {name: f"{name} {HOSTILE}\n  two" for name in parts}
    hostile |= {"context_id": HOSTILE, "user": HOSTILE, "prompt_id": HOSTILE}
    arena = open_arena(make_run(tmp_path / "run", [row(0, **hostile)]), 0)
    client = client_of(arena)
    page = Page(client.get(f"/{TOKEN}/").text)
    assert [len(page.all(tag)) for tag in ("script", "img", "style")] == [1, 0, 1]
    assert page.texts[:2] == [hostile["prompt"], hostile["context"]]
    assert sorted(page.texts[2:]) == sorted([hostile["base"], hostile["adapter"]])
    assert arena.current
    shown = client.post(f"/{TOKEN}/vote", data={"duel": arena.current.id, "choice": "1"})
    assert len(Page(shown.text).all("script")) == 1


def test_a_page_says_nothing_of_whose_answers_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(0, base="One.", adapter="Two.")])
    sides, pages = set(), set()
    for seed in range(12):
        arena = open_arena(run, seed)
        (duel,) = arena.duels
        sides.add(arena.first(duel))
        html = client_of(arena).get(f"/{TOKEN}/").text
        assert not re.search(r"\b(base|adapter|chosen|tuned)\b", html.lower())
        for place, answer in zip(("first", "second"), arena.answers(duel), strict=True):
            html = html.replace(answer, place)
        pages.add(html)
    assert sides == {"base", "adapter"}
    assert len(pages) == 1


def test_labels_and_structure_for_those_who_do_not_see_the_page(client: TestClient) -> None:
    page = Page(client.get(f"/{TOKEN}/").text)
    named = {attrs["id"] for _, attrs in page.tags if attrs.get("id")}
    for _, attrs in page.tags:
        if label := attrs.get("aria-labelledby"):
            assert label in named
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert page.raw["title"].startswith("1 of 4")
    assert [b.get("aria-keyshortcuts") for b in page.all("button")] == ["1", "2", "0"]
    assert any(a.get("aria-live") == "polite" for _, a in page.tags)


def test_forms_alone_vote_undo_and_end_with_the_result(arena: Arena) -> None:
    ended: list[bool] = []
    client = client_of(arena, stop=lambda: ended.append(True))
    page = Page(client.get(f"/{TOKEN}/").text)
    first = page.field("duel")
    page = Page(client.post(f"/{TOKEN}/vote", data={"duel": first, "choice": "0"}).text)
    assert page.raw["title"].startswith("2 of 4")
    page = Page(client.post(f"/{TOKEN}/undo", data={"duel": first}).text)
    assert page.raw["title"].startswith("1 of 4") and page.field("duel") == first
    for number in range(4):
        choice = better((page.texts[2], page.texts[3]))
        answer = client.post(f"/{TOKEN}/vote", data={"duel": page.field("duel"), "choice": choice})
        assert [past.status_code for past in answer.history] == [303]
        page = Page(answer.text)
        early = client.get(f"/{TOKEN}/result").text
        assert f"{number + 1} of 4" in early and ("Go on voting" in early) == (number < 3)
    assert page.raw["title"] == "Your result"
    assert "4, 0, 0" in answer.text and "100.0% (95% interval 43.9 to 100.0%, n = 4)" in answer.text
    for format in ("jsonl", "csv"):
        file = client.get(f"/{TOKEN}/votes.{format}")
        assert file.text == arena.export(format)
        assert file.headers["content-disposition"] == f'attachment; filename="votes.{format}"'
    assert not ended
    assert "Your votes are kept" in client.post(f"/{TOKEN}/quit").text
    assert ended == [True]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "vote", b"duel=absent&choice=1", 400),
        ("POST", "vote", b"duel=DUEL&choice=3", 400),
        ("POST", "vote", b"", 400),
        ("POST", "vote", b"\xff\xfe", 400),
        ("POST", "vote", b"a=1&" * 9, 400),
        ("POST", "vote", b"a" * 5000, 413),
        ("POST", "undo", b"duel=absent", 303),
        ("GET", "vote", b"", 405),
        ("GET", "quit", b"", 405),
        ("POST", "", b"", 405),
        ("GET", "absent", b"", 404),
        ("GET", "../../etc/passwd", b"", 403),
    ],
)
def test_odd_requests_change_nothing(
    arena: Arena, client: TestClient, method: str, path: str, body: bytes, status: int
) -> None:
    assert arena.current
    client.follow_redirects = False
    body = body.replace(b"DUEL", arena.current.id.encode())
    answer = client.request(method, f"/{TOKEN}/{path}", content=body)
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    assert not arena.votes


def test_a_vote_that_cannot_be_written_is_told_and_does_not_count(
    arena: Arena, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, row: Any) -> None:
        raise MipoError("votes.jsonl: cannot be written (No space left on device).", "make room")

    monkeypatch.setattr(Journal, "append", full)
    assert arena.current
    answer = client.post(f"/{TOKEN}/vote", data={"duel": arena.current.id, "choice": "1"})
    assert answer.status_code == 500
    assert "not kept" in answer.text and "hint: make room" in answer.text
    assert not arena.votes


@contextmanager
def served(run: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a user runs it, and the address that it told."""
    command = [sys.executable, "-m", "mipo_cli", "arena", str(run), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert process.stderr
        line = process.stderr.readline()
        assert line.startswith("vote at http://127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def ask(url: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request(method, parts.path, body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("end", ["Ctrl-C", "page"])
def test_the_command_serves_this_machine_alone_and_keeps_votes_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(socket.socket, "connect", CONNECT)
    run = make_run(tmp_path / "run", [row(n) for n in range(3)])
    with served(run, *(["--json"] if end == "page" else [])) as (process, url):
        assert len(urlsplit(url).path.strip("/")) >= 43
        status, html = ask(url)
        assert status == 200
        assert ask(url, Host="evil.example")[0] == 403
        assert ask(url.replace(urlsplit(url).path, "/"))[0] == 403
        body = f"duel={Page(html).field('duel')}&choice=1"
        assert ask(url + "vote", "POST", body)[0] == 303
        assert len((run / "votes.jsonl").read_text().splitlines()) == 2  # at once
        with socket.socket() as other, pytest.raises(OSError):  # not on other addresses
            other.settimeout(5)
            other.connect(("127.0.0.2", urlsplit(url).port))
        if end == "page":
            assert ask(url + "quit", "POST")[0] == 200
        else:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "Traceback" not in err and urlsplit(url).path.strip("/") not in out + err
    if end == "page":
        assert json.loads(out)["votes"] == 1
    else:
        assert "Votes: 1 of 3" in out
    assert len(open_arena(run, 0).votes) == 1


def test_votes_from_a_pipe(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(n) for n in range(3)])
    arena = open_arena(run, 0)
    choices = [better(arena.answers(duel)) for duel in arena.duels]
    first = CliRunner().invoke(app, ["arena", str(run), "--terminal"], input="u\n9\n0\nU\n")
    assert first.exit_code == 0, first.output
    for text in ("1 of 3", "Question", "Lives in town", "Answer 1", "Votes: 0 of 3"):
        assert text in first.output
    assert "No votes yet." in first.output
    words = ["arena", str(run), "--terminal", "--json"]
    second = CliRunner().invoke(app, words, input="\n".join([*choices[:2], "q", "1"]))
    assert second.exit_code == 0, second.output
    found = json.loads(second.stdout)
    assert (found["votes"], found["wins"]) == (2, 2)
    assert "Answer 1" in second.stderr
    third = CliRunner().invoke(app, ["arena", str(run), "--terminal"], input=choices[2])
    assert "Votes: 3 of 3" in third.output and "3, 0, 0" in third.output
    table = CliRunner().invoke(app, ["arena", str(run), "--export", "csv"])
    assert table.stdout == open_arena(run, 0).export("csv").replace("\r\n", "\n")


def test_answers_do_not_steer_the_terminal(tmp_path: Path) -> None:
    assert plain("a\x1b[2Jb\tc\nd\re\x9b1m\x07é") == "a\ufffd[2Jb\tc\nd\ufffde\ufffd1m\ufffdé"
    run = make_run(tmp_path / "run", [row(0, base="\x1b]0;x\x07[bold]words", prompt="\x1b[2Jask")])
    shown = CliRunner().invoke(app, ["arena", str(run), "--terminal"], input="q\n")
    assert "\x1b" not in shown.output
    assert "[bold]words" in shown.output


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_single_keys_at_a_terminal(tmp_path: Path) -> None:
    import pty

    run = make_run(tmp_path / "run", [row(n) for n in range(3)])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mipo_cli", "arena", str(run), "--terminal", "--json"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    try:
        assert process.stderr
        for key in "10u2q":
            while "a tie" not in process.stderr.readline():
                pass
            os.write(ours, key.encode())
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == 0, err
    assert json.loads(out)["votes"] == 2


def test_without_an_eval_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mipo_cli.app import main

    monkeypatch.setattr(sys, "argv", ["mipo", "arena", str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "hint: run 'mipo eval" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()
