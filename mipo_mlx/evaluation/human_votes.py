"""A blind comparison by a person: what is shown in which order, and the votes.

Votes are kept as they are cast in ``votes.jsonl``, each under a hash of what was shown. So an arena
goes on where it was, and after another eval the votes on answers that stayed the same still count.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mipo_mlx.data.files import Fault, Row, kind_of, read_records
from mipo_mlx.errors import ConfigError
from mipo_mlx.grading.judge_prompts import duel_id
from mipo_mlx.run_dir.journal import Journal
from mipo_mlx.run_dir.store import RunStore
from mipo_mlx.stats.intervals import clustered_rate
from mipo_mlx.stats.tests import kappa, sign_test

FIRST, SECOND, TIE = CHOICES = ("1", "2", "0")
OTHER = {"base": "adapter", "adapter": "base"}
SCORES = {"adapter": 1.0, "tie": 0.5, "base": 0.0}
FAILED = "failed"  # a judge's answer that could not be read
FORMATS = ("jsonl", "csv")
COLUMNS = ("context_id", "prompt_id", "first", "winner", "judge")


@dataclass(frozen=True)
class Duel:
    """Both answers to one prompt of one user.

    Attributes:
        id: a hash of all that a voter is shown.
        user: whose votes belong together; the prompt where there is no user.
        context: what both models were told of the user, or "".
        base, adapter: the answers.
    """

    id: str
    context_id: str
    user: str
    prompt_id: str
    context: str
    prompt: str
    base: str
    adapter: str

    @property
    def same(self) -> bool:
        """Nothing to choose between."""
        return self.base.strip() == self.adapter.strip()


@dataclass(frozen=True)
class Verdict:
    """What a judge said of a duel: ``base``, ``adapter``, ``tie``, or ``failed``: nothing.

    ``duel`` is the hash of what it was shown, or "" where that was not kept.
    """

    id: str
    winner: str
    duel: str = ""


@dataclass(frozen=True)
class Vote:
    """One vote: whose answer stood first, and who won (``base``, ``adapter`` or ``tie``)."""

    duel: Duel
    first: str
    winner: str


@dataclass(frozen=True)
class VoteRate:
    """Mean of ``n`` votes with its 95% interval, users as clusters; None of none."""

    rate: float | None
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Agreement(VoteRate):
    """Share of votes equal to the judge's, and Cohen's kappa; None where chance alone agrees."""

    kappa: float | None


@dataclass(frozen=True)
class Sides:
    """Clear votes for the first and the second answer shown, and the sign test of both."""

    first: int
    second: int
    p: float


@dataclass(frozen=True)
class VoteSummary:
    """What all votes come to, seen from the adapter.

    Attributes:
        votes, of: votes cast, of so many duels.
        same_answers: prompts that were not shown, for both answers are the same.
        users: whose votes belong together.
    """

    votes: int
    of: int
    same_answers: int
    users: int
    wins: int
    ties: int
    losses: int
    win_rate: VoteRate
    win_rate_without_ties: VoteRate
    sides: Sides
    judge: Agreement | None


def _words(row: Row, names: Sequence[str]) -> list[str]:
    """Fields that must be strings; they may be empty."""
    for name in names:
        if not isinstance(row.get(name), str):
            found = f"not {kind_of(row[name])}" if name in row else "and is missing"
            raise Fault(f"{name!r} must be a string, {found}.", "run 'mipo eval' on the run again")
    return [str(row[name]) for name in names]


def _duel(row: Row, number: int, source: str) -> list[Duel]:
    names = ("context_id", "user", "prompt_id", "context", "prompt", "base", "adapter")
    words = _words(row, names)
    shown = duel_id(*(word for name, word in zip(names, words, strict=True) if name != "user"))
    words[1] = words[1] or words[2]
    return [Duel(shown, *words)]


def _verdict(row: Row, number: int, source: str) -> list[Verdict]:
    context_id, prompt_id, winner = _words(row, ("context_id", "prompt_id", "winner"))
    if winner not in (*SCORES, FAILED):
        raise Fault("'winner' must be base, adapter or tie.", "see what the judge wrote")
    shown = _words(row, ("duel",))[0] if "duel" in row else ""
    return [Verdict(f"{context_id}\x1f{prompt_id}", winner, shown)]


def _draw(*key: int | str) -> int:
    """A number from a key, the same on every machine."""
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big")


class Arena:
    """Duels in an order drawn by the seed, sides drawn by the seed, and the votes so far."""

    def __init__(
        self, duels: Sequence[Duel], journal: Journal, seed: int, judge: Mapping[str, Verdict]
    ) -> None:
        self.same = sum(duel.same for duel in duels)
        different = [duel for duel in duels if not duel.same]
        self.duels = sorted(different, key=lambda duel: _draw(seed, "order", duel.id))
        self.journal, self.seed, self.judge = journal, seed, judge
        self.votes: dict[str, Vote] = {}  # in the order of casting
        known = {duel.id: duel for duel in self.duels}
        for row in journal.read():
            if "undo" in row:
                self.votes.pop(row["undo"], None)
            elif row["duel"] in known:
                self.votes[row["duel"]] = Vote(known[row["duel"]], row["first"], row["winner"])

    def first(self, duel: Duel) -> str:
        """Whose answer stands first: ``base`` or ``adapter``."""
        return "adapter" if _draw(self.seed, "side", duel.id) % 2 else "base"

    def answers(self, duel: Duel) -> tuple[str, str]:
        """Both answers in the order in which they are shown."""
        pair = (duel.base, duel.adapter)
        return pair if self.first(duel) == "base" else pair[::-1]

    @property
    def current(self) -> Duel | None:
        """The first duel without a vote, or None at the end."""
        return next((duel for duel in self.duels if duel.id not in self.votes), None)

    @property
    def last(self) -> Duel | None:
        """The duel voted on last, which is what undo takes back."""
        return next((vote.duel for vote in reversed(self.votes.values())), None)

    def vote(self, duel_id: str, choice: str) -> None:
        """Keep a vote. A second one on the same duel, as by a double click, changes nothing.

        Args:
            duel_id: what was shown.
            choice: ``1`` or ``2``, the better answer as shown, or ``0`` for a tie.

        Raises:
            ValueError: no such duel or choice.
            MipoError: the vote cannot be written; it does not count then.
        """
        duel = next((duel for duel in self.duels if duel.id == duel_id), None)
        if duel is None or choice not in CHOICES:
            raise ValueError("no such duel or choice")
        if duel_id in self.votes:
            return
        first = self.first(duel)
        winner = {FIRST: first, SECOND: OTHER[first], TIE: "tie"}[choice]
        self.journal.append({"duel": duel_id, "first": first, "winner": winner})
        self.votes[duel_id] = Vote(duel, first, winner)

    def undo(self, duel_id: str) -> None:
        """Take back the last vote, if it is the one on this duel; else nothing changes."""
        if self.last and self.last.id == duel_id:
            self.journal.append({"undo": duel_id})
            del self.votes[duel_id]

    def verdict(self, duel: Duel) -> str:
        """What the judge said: ``base``, ``adapter``, ``tie``, or "" where it said nothing.

        Verdicts on other answers, of an earlier eval, do not count.
        """
        said = self.judge.get(f"{duel.context_id}\x1f{duel.prompt_id}")
        if said is None or said.winner == FAILED or said.duel not in ("", duel.id):
            return ""
        return said.winner

    def summary(self) -> VoteSummary:
        """Counts, win rates of the adapter with 95% intervals by user, sides, and the judge."""
        votes = list(self.votes.values())
        scores = [SCORES[vote.winner] for vote in votes]
        users = [vote.duel.user for vote in votes]
        clear = [index for index, vote in enumerate(votes) if vote.winner != "tie"]
        sides = [votes[index].winner == votes[index].first for index in clear]
        first, second = sum(sides), len(sides) - sum(sides)
        return VoteSummary(
            votes=len(votes),
            of=len(self.duels),
            same_answers=self.same,
            users=len(set(users)),
            wins=scores.count(1.0),
            ties=scores.count(0.5),
            losses=scores.count(0.0),
            win_rate=_rate(scores, users),
            win_rate_without_ties=_rate([scores[i] for i in clear], [users[i] for i in clear]),
            sides=Sides(first, second, sign_test(first, second)),
            judge=self._judged(votes),
        )

    def _judged(self, votes: Sequence[Vote]) -> Agreement | None:
        """With the judge, ties included; None where it said nothing of them."""
        both = [(vote, self.verdict(vote.duel)) for vote in votes if self.verdict(vote.duel)]
        if not both:
            return None
        mine, theirs = [vote.winner for vote, _ in both], [winner for _, winner in both]
        equal = [float(a == b) for a, b in zip(mine, theirs, strict=True)]
        beyond = kappa(mine, theirs)
        rate = _rate(equal, [vote.duel.user for vote, _ in both])
        return Agreement(rate.rate, rate.ci95, rate.n, None if math.isnan(beyond) else beyond)

    def export(self, format: str) -> str:
        """Votes in the order of casting, as ``jsonl`` or ``csv``: ids and winners, no texts."""
        rows = [
            dict(
                zip(
                    COLUMNS,
                    (v.duel.context_id, v.duel.prompt_id, v.first, v.winner, self.verdict(v.duel)),
                    strict=True,
                )
            )
            for v in self.votes.values()
        ]
        if format == "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        sheet = io.StringIO(newline="")
        writer = csv.DictWriter(sheet, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        return sheet.getvalue()


def _rate(values: Sequence[float], users: Sequence[str]) -> VoteRate:
    mean = float(np.mean(values)) if values else None
    return VoteRate(mean, clustered_rate(np.array(values), users), len(values))


def open_arena(run: Path, seed: int) -> Arena:
    """The arena of a run, with the votes cast before.

    Raises:
        ConfigError: eval has not been run, or kept no answers, or there is nothing to choose.
        DataError: ``answers.jsonl`` or ``judge.jsonl`` holds something else; with file and line.
    """
    if not (run / "eval.json").is_file():
        message = f"{run / 'eval.json'}: nothing to compare."
        raise ConfigError(message, f"run 'mipo eval {run}' first")
    path = run / "answers.jsonl"
    if not path.is_file() or not path.stat().st_size:
        message = f"{path}: eval kept no answers."
        raise ConfigError(message, f"run 'mipo eval {run}' again")
    duels = read_records(path, _duel)
    if all(duel.same for duel in duels):
        raise ConfigError(
            f"{path}: base and adapter gave the same answers to all {len(duels)} prompts.",
            "there is nothing to choose; train longer, or eval on more prompts",
        )
    judge = run / "judge.jsonl"
    verdicts = read_records(judge, _verdict) if judge.is_file() else []
    journal = Journal(RunStore(run), "votes.jsonl", {"votes": 1})
    return Arena(duels, journal, seed, {verdict.id: verdict for verdict in verdicts})
