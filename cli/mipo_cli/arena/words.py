"""The result of an arena in words, the same on the page and in the terminal."""

from __future__ import annotations

from mipo_mlx.evaluation.human_votes import VoteRate, VoteSummary
from mipo_mlx.reporting.format import SHARE, number, p_value, range_of
from mipo_mlx.results import ALPHA


def _rate(found: VoteRate) -> str:
    if found.rate is None:
        return "no votes to tell from"
    interval = f"95% interval {range_of(found.ci95, SHARE)}"
    return f"{number(found.rate, SHARE)} ({interval}, n = {found.n})"


def verdict(summary: VoteSummary) -> str:
    """One sentence: whom the votes prefer, or that they do not tell."""
    found = summary.win_rate
    if found.rate is None:
        return "No votes yet."
    low, high = found.ci95
    if low > 0.5:
        return "You preferred the adapter's answers."
    if high < 0.5:
        return "You preferred the base model's answers."
    return "These votes do not tell which of the two you prefer."


def figures(summary: VoteSummary) -> list[tuple[str, str]]:
    """Name and value of each figure."""
    sides, judge = summary.sides, summary.judge
    chance = f"p = {p_value(sides.p)} if sides did not count"
    lines = [
        ("Votes", f"{summary.votes} of {summary.of}"),
        ("Adapter won, tied, lost", f"{summary.wins}, {summary.ties}, {summary.losses}"),
        ("Adapter's win rate, ties as half", _rate(summary.win_rate)),
        ("Adapter's win rate without ties", _rate(summary.win_rate_without_ties)),
        ("Votes for answer 1 and answer 2", f"{sides.first} and {sides.second} ({chance})"),
    ]
    if judge:
        kappa = "" if judge.kappa is None else f", Cohen's kappa {judge.kappa:.2f}"
        lines.append(("Agreement with the judge", _rate(judge) + kappa))
    return lines


def notes(summary: VoteSummary) -> list[str]:
    """What to know when reading the figures."""
    found = []
    if summary.users > 1:
        found.append(f"Intervals take the {summary.users} users as whole units.")
    if summary.same_answers:
        found.append(
            f"{summary.same_answers} prompts got the same answer from both and were not shown."
        )
    if summary.sides.p < ALPHA:
        found.append("You chose one side more often than chance would; sides were drawn by lot.")
    if 0 < summary.votes < summary.of:
        found.append("The figures hold only if you do not stop at a number you like.")
    return found
