"""The section of a judge."""

from __future__ import annotations

from mipo_mlx.reporting.format import SHARE, number, p_value, range_of
from mipo_mlx.results import ALPHA, Ends, Section, Table
from mipo_mlx.results.findings import JudgeFindings, WinRate

MANY_FAILED = 0.1  # share of duels
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


def _interval(ends: Ends) -> str:
    return f"95% interval {range_of(ends, SHARE)}"


def _kinship(found: JudgeFindings) -> list[str]:
    """A warning where the judge is the policy's own."""
    if found.kinship == "base":
        return ["The judge is the policy's own base model: it may prefer its own style."]
    if found.kinship == "family":
        kinds = ", ".join(found.kinds)
        return [f"The judge is of the policy's own family ({kinds}): it may prefer its own style."]
    return []


def _equal_length(rate: WinRate) -> list[str]:
    control = rate.equal_length
    if control is None:
        return ["At equal length: not told, for all duels ended alike."]
    leans = "no lean seen"
    if control.lean_low > 0 or control.lean_high < 0:
        leans = f"it leans to {'longer' if control.lean > 0 else 'shorter'} answers"
    lines = [
        f"Win rate at equal length: {number(control.rate, SHARE)} "
        f"({_interval((control.low, control.high))}); {leans}."
    ]
    if control.extrapolated:
        lines.append("One side's answers are always the longer ones: that rate is a guess.")
    return lines


def _rates(rate: WinRate, sign_p: float) -> list[str]:
    """Win rates in words."""
    lines = [
        f"Win rate, ties as half: {number(rate.rate, SHARE)} ({_interval(rate.ci95)}; 50% is no "
        f"difference). Wins against losses, duels as independent: p = {p_value(sign_p)}.",
        *_equal_length(rate),
    ]
    if rate.at_least:
        adapter, base = (number(value, SHARE) for value in rate.at_least)
        lines.append(
            f"By the paper's rule, a score at least the other's, the adapter wins {adapter}; by "
            f"the same rule the base wins {base}, for ties count as wins of both."
        )
    return lines


def _places(found: JudgeFindings) -> list[str]:
    position = found.position
    if not position or position.a_share is None:
        return []
    unfair = "" if position.p > ALPHA else " It prefers one place, whatever stands there."
    return [
        f"Both orders agreed in {number(position.orders_agree, SHARE)} of {position.n} duels. "
        f"{number(position.a_share, SHARE)} of clear verdicts were A; A won both times in "
        f"{position.a_twice} duels, B in {position.b_twice} (p = {p_value(position.p)}).{unfair}"
    ]


def _failures(found: JudgeFindings) -> list[str]:
    if not found.failed:
        return []
    why = ", ".join(f"{count} {fault}" for fault, count in found.faults.items())
    lines = [
        f"{found.failed} of {found.asked} duels are not scored, for not all answers of the "
        f"judge could be read: {why}."
    ]
    if found.failed > MANY_FAILED * found.asked:
        start = "So many that the rest may not stand for all: raise" if found.win_rate else "Raise"
        lines.append(f"{start} --judge-max-tokens, or take another judge.")
    return lines


def _lines(found: JudgeFindings) -> list[str]:
    """Findings in plain words."""
    lines = _kinship(found)
    if found.win_rate is None:
        none = f"{found.judge} could judge none of {found.asked} duels."
        lines.append(none if found.asked else "All answers were the same: nothing to judge.")
        return lines + _failures(found)
    kinds = {"its two orders disagreed": found.inconsistent}
    if found.protocol == "pairwise":
        kinds["both answers were the same"] = found.same_answers
    whence = " and ".join(f"{count} since {why}" for why, count in kinds.items() if count)
    lines.append(
        f"{found.judge} judged {found.asked - found.failed} of {found.asked} duels: the adapter "
        f"won {found.wins} and lost {found.losses}; {found.ties} are ties"
        f"{', ' + whence if whence else ''}."
    )
    lines += _rates(found.win_rate, found.sign_p)
    return lines + _places(found) + _failures(found)


def _table(found: JudgeFindings) -> Table:
    """Counts, a row a way of counting."""
    head = ("way of counting", "wins", "ties", "losses", "inconsistent", "failed", "win rate")
    rate = found.win_rate
    apart = str(found.inconsistent) if found.protocol == "pairwise" else "-"
    counts = [str(count) for count in (found.wins, found.ties, found.losses)]
    shown = number(rate.rate, SHARE) if rate else ""
    body = [[f"{found.protocol}, ties as half", *counts, apart, str(found.failed), shown]]
    if rate and rate.at_least:
        wins = str(found.wins + found.ties)
        body.append(
            [
                *("the paper's, ties as wins", wins, "0", str(found.losses), "-"),
                *(str(found.failed), number(rate.at_least[0], SHARE)),
            ]
        )
    return Table("Duels by outcome, seen from the adapter", head, body)


def section(found: JudgeFindings) -> Section:
    """A judge's verdict."""
    return Section(
        title="A judge's verdict",
        about=f"{ABOUT[found.protocol]} {AT_EQUAL_LENGTH}",
        lines=_lines(found),
        tables=[_table(found)],
    )
