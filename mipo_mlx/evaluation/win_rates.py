"""From what a judge said of each duel to counts, win rates and sentences; no model.

A duel that the judge failed on is counted and shown, and stands in no rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mipo_mlx.evaluation.comparison import row, units
from mipo_mlx.evaluation.metrics import Item
from mipo_mlx.evaluation.study import Section, Table
from mipo_mlx.grading.judge_prompts import duel_id, settle, version
from mipo_mlx.stats.length_control import length_controlled
from mipo_mlx.stats.votes import kappa, sign_test

SCORES = {"adapter": 1.0, "tie": 0.5, "inconsistent": 0.5, "base": 0.0}  # of the adapter
MANY_FAILED = 0.1  # share of duels
FIRST = {"A": "adapter", "B": "base"}  # winner by verdict, where the adapter's answer is A
SECOND = {"A": "base", "B": "adapter"}
UNSURE = 0.05  # p below which a preference for a place is told as one

Figures = dict[str, Any]


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
    """Who judged and how; what ``more`` holds is kept beside it."""

    judge: str
    protocol: str
    resamples: int
    seed: int
    warning: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


def outcome(said: Mapping[str, Said], protocol: str) -> str:
    """What the answers on one duel come to, by the names of ``judge.questions``."""
    if any(each.fault for each in said.values()):
        return "failed"
    if protocol == "paper":
        base, adapter = int(said["base"].value), int(said["adapter"].value)
        return "tie" if base == adapter else "adapter" if adapter > base else "base"
    return settle(said["adapter_first"].value, said["base_first"].value) if said else "tie"


def _positions(rulings: Sequence[Ruling]) -> Figures | None:
    """Which place the judge prefers, over duels read in both orders; None without any.

    ``a_share`` is of all clear verdicts, and 0.5 for a judge who looks at the answers alone; ``p``
    is the sign test of duels where A won twice against those where B did.
    """
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
    return {
        "n": len(both),
        "a_share": clear.count("A") / len(clear) if clear else None,
        "clear": len(clear),
        "a_twice": twice["A"],
        "b_twice": twice["B"],
        "p": sign_test(twice["A"], twice["B"]),
        "orders_agree": agreed / len(both),
        "kappa": None if math.isnan(beyond) else beyond,
    }


def _metrics(duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting) -> dict[str, Any]:
    """Rows of what was judged; delta of ``judge/wins`` is the share won less the share lost."""
    resampled, clusters = units([duel.item for duel in duels])
    how: dict[str, Any] = {
        "resampled": resampled,
        "resamples": setting.resamples,
        "seed": setting.seed,
    }
    won = {
        side: np.array([ruling.outcome == side for ruling in rulings], float)
        for side in ("base", "adapter")
    }
    rows = {
        "judge/wins": {
            **row(won["base"], won["adapter"], clusters, unit="share of duels", **how),
            "title": "Duels won, by the judge",
            "about": "Share of judged duels that each side won; the rest are ties. The difference "
            "is the net win rate.",
            "better": 1,
        }
    }
    if setting.protocol == "paper":
        base, adapter = (
            np.array([int(ruling.said[side].value) for ruling in rulings], float)
            for side in ("base", "adapter")
        )
        rows["judge/score"] = {
            **row(base, adapter, clusters, unit="points of 1 to 5", **how),
            "title": "The judge's score",
            "about": "How well an answer is personalized to what the user prefers, 1 to 5.",
            "better": 1,
        }
    return rows


def figures(
    duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting
) -> tuple[Figures, dict[str, Any]]:
    """All numbers of a judge, and the rows of metrics, none where it judged nothing.

    Duels with the same answer twice are ties, unasked; rates need at least one that was asked.
    ``win_rate`` is (wins + ties / 2) / judged; its interval is that of ``judge/wins`` halved about
    50%, for the win rate is half the net one above 50%. ``extrapolated``: one side's answers are
    all longer than the other's.
    """
    counts = Counter(ruling.outcome for ruling in rulings)
    faults = Counter(
        each.fault for ruling in rulings for each in ruling.said.values() if each.fault
    )
    judged = [(d, r) for d, r in zip(duels, rulings, strict=True) if r.outcome != "failed"]
    found: Figures = {
        "duels": len(duels),
        "asked": sum(bool(ruling.said) for ruling in rulings),
        "judged": len(judged),
        "wins": counts["adapter"],
        "ties": counts["tie"] + counts["inconsistent"],
        "losses": counts["base"],
        "inconsistent": counts["inconsistent"],
        "same_answers": sum(duel.same for duel in duels),
        "failed": counts["failed"],
        "faults": dict(faults.most_common()),
        "sign_p": sign_test(counts["adapter"], counts["base"]),
        "win_rate": None,
        "length_controlled": None,
    }
    if setting.protocol == "pairwise":
        found["position"] = _positions(rulings)
    if not any(ruling.said for _, ruling in judged):
        return found, {}
    kept, ruled = [duel for duel, _ in judged], [ruling for _, ruling in judged]
    metrics = _metrics(kept, ruled, setting)
    wins = metrics["judge/wins"]
    found["win_rate"] = 0.5 + wins["delta"] / 2
    found["ci95"] = [min(1.0, max(0.0, 0.5 + end / 2)) for end in wins["ci95"]]
    found["p"] = wins["p"]
    if setting.protocol == "paper":
        at_least = {"paper_win_rate": "base", "paper_win_rate_of_base": "adapter"}
        for name, other in at_least.items():
            found[name] = 1 - counts[other] / len(judged)
    longer = np.array([len(duel.adapter) - len(duel.base) for duel in kept], float)
    control = length_controlled(
        np.array([SCORES[ruling.outcome] for ruling in ruled]),
        longer,
        units([duel.item for duel in kept])[1],
        resamples=setting.resamples,
        seed=setting.seed,
    )
    if control:
        one_sided = bool(longer.min() > 0 or longer.max() < 0)
        found["length_controlled"] = {**asdict(control), "extrapolated": one_sided}
    return found, metrics


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _interval(low: float, high: float) -> str:
    return f"95% interval {100 * low:.1f} to {100 * high:.1f}%"


def _rates(found: Figures, protocol: str) -> list[str]:
    """Win rates in words."""
    lines = [
        f"Win rate, ties as half: {_percent(found['win_rate'])} ({_interval(*found['ci95'])}; 50% "
        f"is no difference). Wins against losses, duels as independent: p = {found['sign_p']:.2g}."
    ]
    control = found["length_controlled"]
    if control is None:
        lines.append("At equal length: not told, for all duels ended alike.")
    else:
        inside = control["lean_low"] <= 0 <= control["lean_high"]
        leans = "no lean seen" if inside else "longer" if control["lean"] > 0 else "shorter"
        leans = leans if inside else f"it leans to {leans} answers"
        lines.append(
            f"Win rate at equal length: {_percent(control['rate'])} "
            f"({_interval(control['low'], control['high'])}); {leans}."
        )
        if control["extrapolated"]:
            lines.append("One side's answers are always the longer ones: that rate is a guess.")
    if protocol == "paper":
        lines.append(
            f"By the paper's rule, a score at least the other's, the adapter wins "
            f"{_percent(found['paper_win_rate'])}; by the same rule the base wins "
            f"{_percent(found['paper_win_rate_of_base'])}, for ties count as wins of both."
        )
    return lines


def _places(found: Figures) -> list[str]:
    position = found.get("position")
    if not position or position["a_share"] is None:
        return []
    told = "" if position["p"] > UNSURE else " It prefers one place, whatever stands there."
    return [
        f"Both orders agreed in {_percent(position['orders_agree'])} of {position['n']} duels. "
        f"{_percent(position['a_share'])} of clear verdicts were A; A won both times in "
        f"{position['a_twice']} duels, B in {position['b_twice']} (p = {position['p']:.2g}).{told}"
    ]


def _failures(found: Figures) -> list[str]:
    if not found["failed"]:
        return []
    why = ", ".join(f"{count} {fault}" for fault, count in found["faults"].items())
    lines = [
        f"{found['failed']} of {found['asked']} duels are not scored, for not all answers of the "
        f"judge could be read: {why}."
    ]
    if found["failed"] > MANY_FAILED * found["asked"]:
        some = found["win_rate"] is not None
        told = "So many that the rest may not stand for all: raise" if some else "Raise"
        lines.append(f"{told} --judge-max-tokens, or take another judge.")
    return lines


def sentences(found: Figures, setting: Setting) -> list[str]:
    """Findings in plain words."""
    lines = [setting.warning] if setting.warning else []
    if found["win_rate"] is None:
        none = f"{setting.judge} could judge none of {found['asked']} duels."
        lines.append(none if found["asked"] else "All answers were the same: nothing to judge.")
        return lines + _failures(found)
    kinds = {"its two orders disagreed": found["inconsistent"]}
    if setting.protocol == "pairwise":
        kinds["both answers were the same"] = found["same_answers"]
    whence = " and ".join(f"{count} since {why}" for why, count in kinds.items() if count)
    lines.append(
        f"{setting.judge} judged {found['asked'] - found['failed']} of {found['asked']} duels: the "
        f"adapter won {found['wins']} and lost {found['losses']}; {found['ties']} are ties"
        f"{', ' + whence if whence else ''}."
    )
    lines += _rates(found, setting.protocol)
    return lines + _places(found) + _failures(found)


def _table(found: Figures, protocol: str) -> Table:
    """Counts, a row a way of counting."""
    head = ("way of counting", "wins", "ties", "losses", "inconsistent", "failed", "win rate")
    rate = "" if found["win_rate"] is None else _percent(found["win_rate"])
    apart = str(found["inconsistent"]) if protocol == "pairwise" else "-"
    counts = [str(found[name]) for name in ("wins", "ties", "losses")]
    body = [[f"{protocol}, ties as half", *counts, apart, str(found["failed"]), rate]]
    if protocol == "paper" and found["win_rate"] is not None:
        wins = str(found["wins"] + found["ties"])
        body.append(
            [
                *("the paper's, ties as wins", wins, "0", str(found["losses"]), "-"),
                *(str(found["failed"]), _percent(found["paper_win_rate"])),
            ]
        )
    return Table("Duels by outcome, seen from the adapter", head, body)


def rows(
    duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting
) -> list[dict[str, Any]]:
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


AT_EQUAL_LENGTH = (
    "At equal length: logistic regression on the difference in characters, as in AlpacaEval 2 but "
    "without its term for how hard an instruction is."
)
ABOUT = {
    "pairwise": "A model compared both answers to everything held out, in both orders; a duel is "
    "won only where both orders say so. Ties stand apart and count half in the win rate.",
    "paper": "A model scored each answer alone, from 1 to 5, as in the paper, whose win rate "
    "counts ties as wins; here they stand apart too and count half.",
}


def tell(duels: Sequence[Duel], rulings: Sequence[Ruling], setting: Setting) -> Section:
    """Everything of a judge as a section, with ``judge.jsonl``."""
    found, metrics = figures(duels, rulings, setting)
    about = {
        "judge": setting.judge,
        "protocol": setting.protocol,
        "wording": version(setting.protocol),
    }
    return Section(
        title="A judge's verdict",
        about=f"{ABOUT[setting.protocol]} {AT_EQUAL_LENGTH}",
        lines=sentences(found, setting),
        metrics=metrics,
        tables=[_table(found, setting.protocol)],
        details={**about, **setting.more, **found},
        files={"judge.jsonl": rows(duels, rulings, setting)},
    )
