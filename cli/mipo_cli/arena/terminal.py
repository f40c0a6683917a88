"""The same votes in a terminal, or from a pipe: a line of 1, 2, 0, u or q each."""

from __future__ import annotations

import sys
import termios
import tty
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mipo_cli.arena import words
from mipo_mlx.evaluation.human_votes import CHOICES, Arena, VoteSummary

KEYS = "1 or 2: that answer is better; 0: a tie; u: undo; q: the result"


def plain(text: str) -> str:
    """Text with characters that steer a terminal made visible; line breaks and tabs stay."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c
        for c in text
    )


@contextmanager
def _single_keys() -> Iterator[bool]:
    """Keys come one by one and unseen, where there is a terminal; whether there is one."""
    if not sys.stdin.isatty():
        yield False
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSADRAIN)
    try:
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _said(keys: bool) -> Iterator[str]:
    """What the voter says: a key each, or a line each; ends with the input, or Ctrl-D."""
    while text := sys.stdin.read(1) if keys else sys.stdin.readline():
        if text == "\x04":
            return
        yield text.strip().lower()


def _show(arena: Arena, console: Console) -> None:
    duel = arena.current
    if duel is None:
        console.print("All are voted on. u: undo; q: the result")
        return
    console.rule(f"{len(arena.votes) + 1} of {len(arena.duels)}")
    if duel.context:
        console.print("What both models were told of the user:", style="dim")
        console.print(plain(duel.context), markup=False)
    first, second = arena.answers(duel)
    for name, text in (("Prompt", duel.prompt), ("Answer 1", first), ("Answer 2", second)):
        console.print(f"\n{name}", style="bold")
        console.print(plain(text) if text.strip() else "(an empty answer)", markup=False)
    console.print(f"\n{KEYS}", style="dim")


def _hear(arena: Arena, said: str) -> bool:
    """Whether a key or word voted or took back."""
    if said == "u" and arena.last:
        arena.undo(arena.last.id)
        return True
    if said in CHOICES and arena.current:
        arena.vote(arena.current.id, said)
        return True
    return False


def play(arena: Arena, console: Console) -> None:
    """Ask for votes until q, Ctrl-C or the end of the input."""
    try:
        with _single_keys() as keys:
            _show(arena, console)
            for said in _said(keys):
                if said == "q":
                    return
                if _hear(arena, said):
                    _show(arena, console)
                else:
                    console.print(KEYS, style="dim")
    except KeyboardInterrupt:
        return


def show_result(summary: VoteSummary, console: Console) -> None:
    """Verdict, figures and notes."""
    console.print(f"\n{words.verdict(summary)}")
    for name, value in words.figures(summary):
        console.print(f"  {name}: {value}", markup=False)
    for note in words.notes(summary):
        console.print(note)
