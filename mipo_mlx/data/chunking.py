"""Long notes in parts: split at headings, packed up to a budget of tokens.

A part starts with the headings that it stands under, so that it can be understood alone. Headings
are found by markdown-it, in its CommonMark mode; so a "#" within a code block is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mipo_mlx.types import Context

Count = Callable[[str], int]
GAP = "\n\n"
# where a section that is too long is split: paragraphs, lines, sentences, words
SEAMS = (r"\n\s*\n", r"\n", r"(?<=[.!?\u3002])\s+", r"\s+")


@dataclass(frozen=True)
class Section:
    """Text under one heading, or before the first: titles from the top down, and the body."""

    titles: tuple[str, ...]
    body: str

    def text(self, above: tuple[str, ...] = ()) -> str:
        """The section with its headings, without those that stand ``above`` already."""
        same = 0
        while same < min(len(above), len(self.titles)) and above[same] == self.titles[same]:
            same += 1
        return GAP.join([*self.titles[same:], *([self.body] if self.body else [])])


def sections(text: str) -> list[Section]:
    """Sections of Markdown, in order; text without headings is one."""
    from markdown_it import MarkdownIt

    lines = re.sub(r"\r\n?", "\n", text).split("\n")
    marks = [
        (token.map[0], token.map[1], int(token.tag[1:]))
        for token in MarkdownIt("commonmark").parse(text)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]
    found = [Section((), "\n".join(lines[: marks[0][0] if marks else None]).strip())]
    open_titles: list[tuple[int, str]] = []
    ends = [start for start, _, _ in marks[1:]] + [len(lines)] * bool(marks)
    for (start, body, depth), end in zip(marks, ends, strict=True):
        open_titles = [(d, title) for d, title in open_titles if d < depth]
        open_titles.append((depth, "\n".join(lines[start:body]).strip()))
        titles = tuple(title for _, title in open_titles)
        found.append(Section(titles, "\n".join(lines[body:end]).strip()))
    return [section for section in found if section.body or section.titles]


def _pieces(body: str, room: int, count: Count, seam: int = 0) -> Iterator[str]:
    """The body in pieces of at most ``room`` tokens, cut at the coarsest seams that do."""
    if count(body) <= room or seam == len(SEAMS):
        yield body
        return
    held = ""
    for part in re.split(SEAMS[seam], body):
        joined = f"{held}{_SEAM_TEXT[seam]}{part}" if held else part
        if count(joined) <= room:
            held = joined
            continue
        if held:
            yield held
        *whole, held = _pieces(part, room, count, seam + 1)
        yield from whole
    if held:
        yield held


_SEAM_TEXT = (GAP, "\n", " ", " ")


def chunks(text: str, budget: int, count: Count) -> list[str]:
    """Markdown in parts of at most ``budget`` tokens each, in order; nothing is left out.

    Sections that fit together stand together. A section beyond the budget is split at paragraphs,
    lines, sentences or, at last, words; only a single word can exceed the budget.

    Args:
        text: Markdown or plain text.
        budget: tokens a part; 0 splits nothing.
        count: tokens of a text.
    """
    if not budget or count(text) <= budget:
        return [text]
    small: list[Section] = []
    for section in sections(text):
        heads = count(replace(section, body="").text())
        if heads > budget // 2:  # headings this long are text
            section, heads = Section((), section.text(section.titles[:-1])), 0
        pieces = _pieces(section.body, budget - heads - 2 * bool(heads), count)
        small += [replace(section, body=piece) for piece in pieces]
    made: list[str] = []
    last: tuple[str, ...] = ()
    for section in small:
        if not section.body and not made:
            made, last = [section.text()], section.titles
            continue
        joined = f"{made[-1]}{GAP}{section.text(last)}" if made else ""
        if made and count(joined) <= budget:
            made[-1] = joined
        else:
            made.append(section.text())
        last = section.titles
    return made


def split_notes(context: Context, budget: int, count: Count) -> list[Context]:
    """A context in parts of one user, named ``id#1``, ``id#2`` and so on; whole when it fits."""
    parts = chunks(context.text, budget, count)
    if len(parts) == 1:
        return [context]
    return [
        replace(context, id=f"{context.id}#{number}", text=part, user=context.owner)
        for number, part in enumerate(parts, 1)
    ]
