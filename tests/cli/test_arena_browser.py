"""The arena in headless Chromium: keys, no scripts, light and dark, a phone's width.

Skipped where there is no playwright or no Chromium or Chrome on the machine.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_runs import better, make_run, row
from mipo_cli.arena import app as page_module
from mipo_mlx.evaluation.human_votes import Arena, open_arena

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
CHROME = next(filter(None, map(shutil.which, (*NAMES, MAC))), None)
pytestmark = pytest.mark.skipif(CHROME is None, reason="no Chromium or Chrome on this machine")
CONNECT = socket.socket.connect  # before the suite refuses it

# Contrast of every text with what lies behind it, and targets' heights, as the browser sees them.
CONTRAST = """() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const found = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(found)) return found;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  for (const node of document.querySelectorAll("body *:not(script)")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    found[node.tagName + ":" + node.textContent.trim().slice(0, 20)] =
      (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROME, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    long = "Plain " + "verylongword" * 40
    rows = [row(n, base=f"{long} {n}.") for n in range(4)]
    return open_arena(make_run(tmp_path / "run", rows), 0)


@pytest.fixture
def url(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The arena served by the command's own function, in a thread."""
    monkeypatch.setattr(socket.socket, "connect", CONNECT)
    told: list[str] = []
    ready, servers = threading.Event(), []

    class Server(page_module.uvicorn.Server):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(page_module.uvicorn, "Server", Server)

    def announce(address: str) -> None:
        told.append(address)
        ready.set()

    thread = threading.Thread(target=page_module.serve, args=(arena, announce))
    thread.start()
    assert ready.wait(10)
    yield told[0]
    servers[0].should_exit = True
    thread.join(10)


class Watched:
    """A page with all that it asked for and complained about."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.url, self.context = url, browser.new_context(**context)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def check(self) -> None:
        assert not self.complaints
        assert all(url.startswith((self.url, "data:")) for url in self.asked), self.asked

    def at(self, title: str) -> None:
        """Wait until the page has this title."""
        self.page.wait_for_function("title => document.title.startsWith(title)", arg=title)

    def loaded(self, title: str) -> None:
        """Wait for a page of this title; unlike `at` it needs no script on the page."""
        expect(self.page).to_have_title(re.compile(f"^{re.escape(title)}"))

    def answers(self) -> tuple[str, str]:
        first, second = self.page.locator("article .text").all_inner_texts()
        return first, second


def test_keys_alone_vote_undo_and_end(browser: Any, url: str, arena: Arena) -> None:
    with Watched(browser, url) as seen:
        page = seen.page
        page.keyboard.press("0")
        seen.at("2 of 4")
        page.keyboard.press("u")
        seen.at("1 of 4")
        assert not arena.votes
        for number in range(2):
            seen.at(f"{number + 1} of 4")
            page.keyboard.press(better(seen.answers()))
        seen.at("3 of 4")
        page.keyboard.press("Control+1")  # the browser's own
        page.keyboard.press("x")
        assert len(arena.votes) == 2
        for _ in range(30):  # Tab reaches the buttons, in the order in which they are read
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.value") == "1":
                break
        order = []
        for _ in range(3):
            order.append(page.evaluate("document.activeElement.value"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
            page.keyboard.press("Tab")
        assert order == ["1", "2", "0"]
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        seen.at("4 of 4")
        page.keyboard.press(better(seen.answers()))
        seen.at("Your result")
        assert "3, 1, 0" in page.inner_text("dl")
        seen.check()
        page.get_by_role("button", name="End the arena").press("Enter")
        seen.at("The arena is closed")
    assert arena.summary().wins == 3


def test_a_key_held_down_votes_once_and_keys_can_be_turned_off(
    browser: Any, url: str, arena: Arena
) -> None:
    with Watched(browser, url) as seen:
        page = seen.page
        page.keyboard.down("1")
        for _ in range(5):
            page.keyboard.down("1")  # repeats, as the browser is told
        seen.at("2 of 4")
        page.keyboard.down("1")
        page.wait_for_timeout(200)
        page.keyboard.up("1")
        assert len(arena.votes) == 1
        page.get_by_label("Keys 1, 2, 0 and u").uncheck()
        page.keyboard.press("2")
        page.reload()
        page.keyboard.press("2")
        page.wait_for_timeout(200)
        assert len(arena.votes) == 1
        seen.check()


def test_without_scripts_the_buttons_do_it(browser: Any, url: str, arena: Arena) -> None:
    with Watched(browser, url, java_script_enabled=False) as seen:
        for number in range(4):
            seen.loaded(f"{number + 1} of 4")
            choice = better(seen.answers())
            seen.page.get_by_role("button", name=f"Answer {choice}").click()
        seen.loaded("Your result")
        assert "4, 0, 0" in seen.page.inner_text("dl")
        assert not seen.page.get_by_text("Keys 1, 2, 0").is_visible()
        with seen.page.expect_download() as caught:
            seen.page.get_by_role("link", name="CSV").click()
        assert Path(caught.value.path()).read_bytes().decode() == arena.export("csv")
        seen.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_light_and_dark_on_a_phone_and_a_desk(
    browser: Any, url: str, arena: Arena, scheme: str, width: int, tmp_path: Path
) -> None:
    size = {"width": width, "height": 844}
    with Watched(browser, url, color_scheme=scheme, viewport=size) as seen:
        dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(20, 20, 23)") == (scheme == "dark")
        for place in ("", "result"):
            seen.page.goto(url + place)
            seen.page.screenshot(path=tmp_path / f"{place or 'vote'}.png", full_page=True)
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
            contrast = seen.page.evaluate(CONTRAST)
            assert len(contrast) >= 8
            assert min(contrast.values()) >= 4.5, contrast
            for box in seen.page.locator("button").all():
                assert box.bounding_box()["height"] >= 44
        seen.check()
