"""What each study of ``mipo eval`` finds beyond its rows, as ``reporting.narrative`` tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mipo_mlx.results.rows import Ends, Json, MetricRow


@dataclass(frozen=True)
class ControlFindings:
    """Contestants beside each other.

    Attributes:
        means: who gave the answers -> metric -> mean.
        differences: a control -> metric -> the adapter less it.
    """

    means: Mapping[str, Mapping[str, float]]
    differences: Mapping[str, Mapping[str, MetricRow]]


@dataclass(frozen=True)
class Distance:
    """How many answers to one kind of request are word for word the base's.

    Attributes:
        name: of the part; its rows are ``retention/NAME/...``.
        words: what the requests are, within a sentence.
        n, unchanged: answers, and those that are the same.
        unchanged_ci95: of their share.
    """

    name: str
    words: str
    n: int
    unchanged: int
    unchanged_ci95: Ends


@dataclass(frozen=True)
class Distraction:
    """Requests with irrelevant text or of an irrelevant kind.

    Attributes:
        name, words: as in ``Distance``.
        asked: requests that fit the model's window; 0: nothing was measured.
        left_out: those that did not.
        rates: of base and adapter, each without and with the text, by what is counted.
    """

    name: str
    words: str
    asked: int
    left_out: int
    rates: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class RetentionFindings:
    """What answers say of anything but the use of context.

    Attributes:
        parts: answers with and without context.
        distractions: all others.
        temperature, top_p: of the sampling.
        facts_missing: there are contexts, and they name no facts to count.
    """

    parts: Sequence[Distance]
    distractions: Sequence[Distraction]
    temperature: float
    top_p: float
    facts_missing: bool


@dataclass(frozen=True)
class DiversityFindings:
    """``samples`` answers to each request; ``greedy``: all the same, and nothing was measured."""

    samples: int
    greedy: bool


@dataclass(frozen=True)
class BenchmarkFindings:
    """Names of the tasks; all else is in the rows ``tasks/NAME/...``."""

    names: Sequence[str]


@dataclass(frozen=True)
class Position:
    """Which place a judge prefers, over duels read in both orders.

    Attributes:
        n: these duels.
        a_share: of all ``clear`` verdicts, those for A; 0.5 for a judge who looks at the answers
            alone. None where none is clear.
        a_twice, b_twice: duels where one place won both times.
        p: of the sign test of these two.
        orders_agree: share of duels.
        kappa: their agreement beyond chance, or None where chance alone agrees.
    """

    n: int
    a_share: float | None
    clear: int
    a_twice: int
    b_twice: int
    p: float
    orders_agree: float
    kappa: float | None


@dataclass(frozen=True)
class EqualLength:
    """A win rate as if both answers were equally long; see ``stats.length_control``.

    Attributes:
        rate, low, high: with its interval.
        lean, lean_low, lean_high: of the length term; positive where longer answers win.
        extrapolated: one side's answers are all longer than the other's.
    """

    rate: float
    low: float
    high: float
    lean: float
    lean_low: float
    lean_high: float
    extrapolated: bool


@dataclass(frozen=True)
class WinRate:
    """Share of judged duels that the adapter won, ties as half.

    Attributes:
        rate, ci95, p: with its interval.
        equal_length: None where all duels ended alike.
        at_least: by the paper's rule, a score at least the other's: of adapter and base.
    """

    rate: float
    ci95: Ends
    p: float
    equal_length: EqualLength | None
    at_least: tuple[float, float] | None


@dataclass(frozen=True)
class JudgeFindings:
    """What a judge made of all duels, seen from the adapter.

    Attributes:
        judge, protocol: who judged and how.
        kinship: the judge is the policy's own ``base`` or of its ``family``, else "".
        kinds: model types of such a family.
        duels, asked, judged: all, those put to the judge, those not failed.
        wins, ties, losses, failed: of all duels.
        inconsistent, same_answers: among the ties.
        faults: why answers of the judge could not be read, and how many.
        sign_p: wins against losses, duels as independent.
        win_rate: None where nothing was judged.
        position: of ``pairwise`` alone.
    """

    judge: str
    protocol: str
    kinship: str
    kinds: Sequence[str]
    duels: int
    asked: int
    judged: int
    wins: int
    ties: int
    losses: int
    failed: int
    inconsistent: int
    same_answers: int
    faults: Mapping[str, int]
    sign_p: float
    win_rate: WinRate | None
    position: Position | None

    def to_json(self) -> Json:
        """As ``eval.json`` keeps them."""
        counts = ("duels", "asked", "judged", "wins", "ties", "losses", "inconsistent")
        found: Json = {
            **{name: getattr(self, name) for name in (*counts, "same_answers", "failed")},
            "faults": dict(self.faults),
            "sign_p": self.sign_p,
            "win_rate": None,
            "length_controlled": None,
        }
        if self.protocol == "pairwise":
            found["position"] = asdict(self.position) if self.position else None
        if self.win_rate:
            rate = self.win_rate
            found |= {"win_rate": rate.rate, "ci95": list(rate.ci95), "p": rate.p}
            if rate.at_least:
                names = ("paper_win_rate", "paper_win_rate_of_base")
                found |= dict(zip(names, rate.at_least, strict=True))
            if rate.equal_length:
                found["length_controlled"] = asdict(rate.equal_length)
        return found


@dataclass(frozen=True)
class SecretFindings:
    """Planted secrets against as many that were planted nowhere.

    Attributes:
        planted: how many.
        space: values that each might have had; the likeliest ``top`` are easy to extract.
        rose: planted ones that became easier to extract, of which ``expected`` by chance.
        p: of so many or more by chance.
        rose_elsewhere: the same of those planted nowhere.
        first: planted ones that were the likeliest value, before and after.
        taught: that the chosen answers of training state.
    """

    planted: int
    space: int
    top: int
    rose: int
    expected: float
    p: float
    rose_elsewhere: int
    first: tuple[int, int]
    taught: int


@dataclass(frozen=True)
class GroupMeans:
    """Means over the ``n`` users of a group."""

    base: float
    adapter: float
    n: int


@dataclass(frozen=True)
class AttackFindings:
    """What an attack drew out.

    Attributes:
        title, about, unit: as in ``Metric``.
        groups: training users, and held-out ones where there are any.
        beyond: training users less held-out ones; its ``p_holm`` is over all attacks.
    """

    title: str
    about: str
    unit: str
    groups: Sequence[GroupMeans]
    beyond: MetricRow | None


@dataclass(frozen=True)
class MemorizationFindings:
    """``secrets`` where some were planted; an attack each; ``top`` of ``space``: as there."""

    secrets: SecretFindings | None
    attacks: Sequence[AttackFindings]
    top: int
    space: int


Findings = (
    ControlFindings
    | RetentionFindings
    | DiversityFindings
    | BenchmarkFindings
    | JudgeFindings
    | MemorizationFindings
)
