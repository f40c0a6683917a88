"""From what a judge said of each duel to counts, win rates and rows; no model.

A duel that the judge failed on is counted and shown, and stands in no rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mipo_mlx.evaluation.comparison import Draws, draws_of, row
from mipo_mlx.evaluation.questions import Item
from mipo_mlx.evaluation.study import Measured
from mipo_mlx.grading.judge_prompts import duel_id, settle, version
from mipo_mlx.results import SIDES, Json, MetricRow
from mipo_mlx.results.findings import EqualLength, JudgeFindings, Position, WinRate
from mipo_mlx.stats.length_control import length_controlled
from mipo_mlx.stats.tests import kappa, sign_test

SCORES = {"adapter": 1.0, "tie": 0.5, "inconsistent": 0.5, "base": 0.0}  # of the adapter
FIRST = {"A": "adapter", "B": "base"}  # winner by verdict, where the adapter's answer is A
SECOND = {"A": "base", "B": "adapter"}


@dataclass(frozen=True)
class Duel:
    """Both answers to one item."""

    item: Item
    base: str
    adapter: str

    @property
    def same(self) -> bool:
        """Nothing to choose between."""
        return self.base.strip() == self.adapter.strip()


class Said(NamedTuple):
    """One answer of a judge: what it comes to, or why it comes to nothing; and its text."""

    value: str
    fault: str
    text: str


@dataclass(frozen=True)
class Ruling:
    """What a judge made of a duel.

    Attributes:
        outcome: ``adapter``, ``base``, ``tie``, ``inconsistent`` (a tie, since the two orders
            disagree) or ``failed`` (not scored).
        said: by the question's name; empty where both answers were the same and none was put.
    """

    outcome: str
    said: Mapping[str, Said]

    @property
    def winner(self) -> str:
        return "tie" if self.outcome == "inconsistent" else self.outcome


@dataclass(frozen=True)
class Setting:
    """Who judged and how.

    Attributes:
        judge, protocol, kinship, kinds: as in ``JudgeFindings``.
        resamples, seed: of the intervals.
        more: kept beside them.
    """

    judge: str
    protocol: str
    resamples: int
    seed: int
    kinship: str = ""
    kinds: Sequence[str] = ()
    more: Json = field(default_factory=dict)


def outcome(said: Mapping[str, Said], protocol: str) -> str:
    """What the answers on one duel come to, by the names of ``judge.questions``."""
    if any(each.fault for each in said.values()):
        return "failed"
    if protocol == "paper":
        base, adapter = int(said["base"].value), int(said["adapter"].value)
        return "tie" if base == adapter else "adapter" if adapter > base else "base"
    return settle(said["adapter_first"].value, said["base_first"].value) if said else "tie"


def _positions(rulings: Sequence[Ruling]) -> Position | None:
    """Which place the judge prefers, over duels read in both orders; None without any."""
    both = [
        (ruling.said["adapter_first"].value, ruling.said["base_first"].value)
        for ruling in rulings
        if ruling.outcome != "failed" and ruling.said
    ]
    if not both:
        return None
    clear = [value for pair in both for value in pair if value != "tie"]
    twice = Counter(first for first, second in both if first == second)
    agreed = sum(settle(*pair) != "inconsistent" for pair in both)
    beyond = kappa(
        [FIRST.get(first, "tie") for first, _ in both],
        [SECOND.get(second, "tie") for _, second in both],
    )
    return Position(
        n=len(both),
        a_share=clear.count("A") / len(clear) if clear else None,
        clear=len(clear),
        a_twice=twice["A"],
        b_twice=twice["B"],
        p=sign_test(twice["A"], twice["B"]),
        orders_agree=agreed / len(both),
        kappa=None if math.isnan(beyond) else beyond,
    )


def _metrics(rulings: Sequence[Ruling], protocol: str, draws: Draws) -> dict[str, MetricRow]:
    """Rows of what was judged; delta of ``judge/wins`` is the share won less the share lost."""
    lost, won = (np.array([r.outcome == side for r in rulings], float) for side in SIDES)
    rows = {
        "judge/wins": replace(
            row(lost, won, "share of duels", draws),
            title="Duels won, by the judge",
            about="Share of judged duels that each side won; the rest are ties. The difference is "
            "the net win rate.",
            better=1,
        )
    }
    if protocol == "paper":
        base, adapter = (
            np.array([int(r.said[side].value) for r in rulings], float) for side in SIDES
        )
        rows["judge/score"] = replace(
            row(base, adapter, "points of 1 to 5", draws),
            title="The judge's score",
            about="How well an answer is personalized to what the user prefers, 1 to 5.",
            better=1,
        )
    return rows


def _at_equal_length(
    duels: Sequence[Duel], rulings: Sequence[Ruling], draws: Draws
) -> EqualLength | None:
    longer = np.array([len(duel.adapter) - len(duel.base) for duel in duels], float)
    control = length_controlled(
        np.array([SCORES[ruling.outcome] for ruling in rulings]),
        longer,
        draws.clusters,
        resamples=draws.resamples,
        seed=draws.seed,
    )
    if control is None:
        return None
    one_sided = bool(longer.min() > 0 or longer.max() < 0)
    return EqualLength(**asdict(control), extrapolated=one_sided)


def _win_rate(
    duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting
) -> tuple[WinRate | None, dict[str, MetricRow]]:
    """The rate and the rows of what was judged; none where all answers were the same.

    The rate is (wins + ties / 2) / judged; its interval is that of ``judge/wins`` halved about 50%,
    for the win rate is half the net one above 50%.
    """
    if not any(ruling.said for ruling in rulings):
        return None, {}
    draws = draws_of([duel.item for duel in duels], setting.resamples, setting.seed)
    metrics = _metrics(rulings, setting.protocol, draws)
    wins = metrics["judge/wins"]
    low, high = (min(1.0, max(0.0, 0.5 + end / 2)) for end in wins.ci95)
    counts = Counter(ruling.outcome for ruling in rulings)
    at_least = (1 - counts["base"] / len(rulings), 1 - counts["adapter"] / len(rulings))
    return WinRate(
        rate=0.5 + wins.delta / 2,
        ci95=(low, high),
        p=wins.p,
        equal_length=_at_equal_length(duels, rulings, draws),
        at_least=at_least if setting.protocol == "paper" else None,
    ), metrics


def findings(
    duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting
) -> tuple[JudgeFindings, dict[str, MetricRow]]:
    """All numbers of a judge, and the rows of metrics, none where it judged nothing.

    Duels with the same answer twice are ties, unasked; rates need at least one that was asked.
    """
    counts = Counter(ruling.outcome for ruling in rulings)
    faults = Counter(
        each.fault for ruling in rulings for each in ruling.said.values() if each.fault
    )
    judged = [(d, r) for d, r in zip(duels, rulings, strict=True) if r.outcome != "failed"]
    win_rate, metrics = _win_rate([d for d, _ in judged], [r for _, r in judged], setting)
    return JudgeFindings(
        judge=setting.judge,
        protocol=setting.protocol,
        kinship=setting.kinship,
        kinds=setting.kinds,
        duels=len(duels),
        asked=sum(bool(ruling.said) for ruling in rulings),
        judged=len(judged),
        wins=counts["adapter"],
        ties=counts["tie"] + counts["inconsistent"],
        losses=counts["base"],
        failed=counts["failed"],
        inconsistent=counts["inconsistent"],
        same_answers=sum(duel.same for duel in duels),
        faults=dict(faults.most_common()),
        sign_p=sign_test(counts["adapter"], counts["base"]),
        win_rate=win_rate,
        position=_positions(rulings) if setting.protocol == "pairwise" else None,
    ), metrics


def rows(duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting) -> list[Json]:
    """Rows of ``judge.jsonl``, which ``mipo arena`` reads: ids, winner, and all that was said."""
    made = []
    for duel, ruling in zip(duels, rulings, strict=True):
        context, prompt = duel.item.context, duel.item.prompt
        made.append(
            {
                "context_id": context.id if context else "",
                "prompt_id": prompt.id,
                "winner": ruling.winner,
                "inconsistent": ruling.outcome == "inconsistent",
                "same_answers": duel.same,
                "judge": setting.judge,
                "protocol": setting.protocol,
                "wording": version(setting.protocol),
                "duel": duel_id(
                    *(context.id if context else "", prompt.id, context.text if context else ""),
                    *(prompt.text, duel.base, duel.adapter),
                ),
                **{name: said._asdict() for name, said in ruling.said.items()},
            }
        )
    return made


def measured(duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting) -> Measured:
    """Everything of a judge, with ``judge.jsonl``."""
    found, metrics = findings(duels, rulings, setting)
    about = {
        "judge": setting.judge,
        "protocol": setting.protocol,
        "wording": version(setting.protocol),
    }
    return Measured(
        found,
        metrics,
        {**about, **setting.more, **found.to_json()},
        {"judge.jsonl": rows(duels, rulings, setting)},
    )
