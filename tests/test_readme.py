"""The commands and the library example of the README and of the pages it links do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LINK = re.compile(r"\]\((?!http)([^)#]+)\)")
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
TEXT = TEXTS["README.md"]
SMALL = ["--set", "max_steps=1", "--set", "eval_contexts=4", "--set", "prompts_per_context=1"]


def commands() -> list[str]:
    """Of the README and of the page on usage; recipes have a test of their own."""
    every = [TEXT, TEXTS["usage.md"]]
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(every), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("mipo ")]


def test_the_readme_is_a_page_of_two_minutes() -> None:
    words = len(re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL).split())
    assert words <= 600


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page(page: Path) -> None:
    for link in LINK.findall(TEXTS[page.name]):
        assert (page.parent / link).exists(), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {Path(link).name for link in LINK.findall(TEXT)}
    assert linked >= {page.name for page in PAGES[1:]} - {"reproduce.md"}


def test_the_walk_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mipo_cli.app import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.jsonl").write_text(
        "".join(f'{{"id": "u{n}", "text": "I live in town {n}."}}\n' for n in range(3))
    )
    (tmp_path / "prompts.jsonl").write_text(
        '{"id": "a", "text": "Where do I live?"}\n{"id": "b", "text": "Plan my day."}\n'
    )
    found = commands()
    assert [line.split()[1] for line in found] == ["run", "generate", "train", "eval", "report"]
    for line in found:
        words = shlex.split(line)[1:]
        if "--model" in words:  # the hub is out of reach here: the embedded model stands in
            words[words.index("--model") + 1] = "embedded"
        small = [] if words[0] == "report" else SMALL
        result = CliRunner().invoke(app, [*words, *small])
        assert result.exit_code == 0, (line, result.output)


def test_the_library_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mipo_mlx.pipeline import library

    (block,) = re.findall(r"```python\n(.*?)```", TEXTS["usage.md"], re.DOTALL)
    for name, text in (("users", "I live in town {n}."), ("prompts", "What about {n} of it?")):
        rows = (f'{{"id": "{n}", "text": "{text.format(n=n)}"}}\n' for n in range(10))
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    real = library.resolve

    def small(flags: Any) -> Any:
        limits = {"max_steps": 1, "eval_prompts_per_context": 1, "resamples": 100}
        return real(flags={**limits, "prompts_per_context": 2, **flags})

    monkeypatch.setattr(library, "resolve", small)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "usage.md", "exec"), {})
    assert "information/pmi" in capsys.readouterr().out
    assert (tmp_path / "adapter" / "adapters.safetensors").is_file()
