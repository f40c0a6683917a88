"""A study: what the adapter learned by heart of training users, asked without their contexts.

Four ways of drawing it out: planted secrets, direct questions and the run's own requests, values
after the context's own words, the second half of contexts after the first. Each has a control that
was never trained on: secrets planted nowhere, and held-out users. What rises for both is no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.data.canaries import SPACE, Canary, take_out, values
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.data.scrub import scrub_pairs
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation.comparison import row
from mipo_mlx.evaluation.memorization import attacks, extraction
from mipo_mlx.evaluation.memorization.attacks import Group
from mipo_mlx.evaluation.study import SIDES, Section, Subject, Table
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import ALPHA, told, told_ends
from mipo_mlx.stats.exposure import chance, difference, exposure, risen
from mipo_mlx.stats.intervals import holm
from mipo_mlx.training.withhold import held_facts
from mipo_mlx.types import Context, PreferencePair

TOP = SPACE // 100  # a secret among so many likeliest of its values is easy to extract
Figures = dict[str, dict[str, Any]]

# figure -> (title, what it is the mean of, unit)
ATTACKS = {
    "asked": (
        "facts, asked for",
        "answers to 'What is my town?' and the like that state the user's own value",
        "share of answers",
    ),
    "requests": (
        "facts, unasked",
        "answers to the run's own requests that state a fact of the user",
        "share of answers",
    ),
    "continued": (
        "facts, after the context's words",
        "other users' values that are less likely than the user's own",
        "share of values",
    ),
    "text": ("context, after its first half (nats a token)", "log-prob a token", "nats"),
}


def _trained_on(run: Path, config: RunConfig) -> list[PreferencePair]:
    """Pairs as training took them, where they are there."""
    path = Path(config.train.pairs) if config.train.pairs else run / "pairs.jsonl"
    pairs = read_pairs(path) if path.is_file() else []
    held = held_facts(config.train)
    return scrub_pairs(pairs, held).pairs if held else pairs


def secret_lines(
    placed: Mapping[str, Mapping[str, np.ndarray]], groups: Sequence[tuple[int, int, int]]
) -> list[str]:
    """What the ranks say, in words.

    Args:
        placed: ranks of ``planted`` and ``held_back`` secrets, of each side [secrets, openings].
        groups: of each subject its values, how many of them rose, and how many were planted.
    """
    planted, held_back = placed["planted"], placed["held_back"]
    rose = [int(risen(s["base"].T, s["adapter"].T, TOP).sum()) for s in (planted, held_back)]
    first = [int((planted[side].min(axis=1) == 1).sum()) for side in SIDES]
    blind, count = chance(rose[0], groups), len(planted["base"])
    verdict = "this is memory" if blind.p <= ALPHA else "no memory seen"
    return [
        f"{rose[0]} of {count} planted secrets became easier to extract; by chance "
        f"{blind.expected:.2g} would (p = {blind.p:.2g}: {verdict}). Of {count} secrets that were "
        f"planted nowhere, {rose[1]} did.",
        f"Likeliest of {SPACE:,} values: {first[0]} of {count} planted secrets before, {first[1]} "
        "after.",
    ]


def gap(trained: Group, control: Group) -> dict[str, Any] | None:
    """A metric's row: training users less held-out ones, and what became of that.

    ``delta`` is the difference in differences, users as units (Welch's t). None for a single user.
    """
    if min(len(trained.users), len(control.users)) < 2:
        return None
    found = difference(trained.adapter - trained.base, control.adapter - control.base)
    return {
        "base": float(trained.base.mean() - control.base.mean()),
        "adapter": float(trained.adapter.mean() - control.adapter.mean()),
        "delta": found.delta,
        "ci95": [found.low, found.high],
        "p": found.p,
        "n": len(trained.users) + len(control.users),
        "users": len(trained.users) + len(control.users),
        "resampled": "users",
        "needed": None,
    }


def _change(group: Group, unit: str) -> str:
    return " -> ".join(told(float(side.mean()), unit) for side in (group.base, group.adapter))


def group_lines(groups: Mapping[str, Sequence[Group]], gaps: Mapping[str, Any]) -> list[str]:
    """A sentence an attack; those that have a control share Holm's correction.

    Args:
        groups: training users, and held-out ones where there are any, by attack.
        gaps: rows of ``gap`` by attack.
    """
    family = dict(zip(gaps, holm([row["p"] for row in gaps.values()]), strict=True))
    lines = []
    for name, found in groups.items():
        title, _, unit = ATTACKS[name]
        line = f"{title.capitalize()}: training users {_change(found[0], unit)}"
        if name in gaps:
            row = gaps[name]
            sure = family[name] <= ALPHA
            verdict = "no memory seen" if not sure else "memory" if row["delta"] > 0 else "it fell"
            line += (
                f", held-out users {_change(found[1], unit)}; beyond these "
                f"{told(row['delta'], unit, sign=True)} (95% interval "
                f"{told_ends(row['ci95'], unit)}): {verdict}"
            )
        lines.append(f"{line}.")
    return lines


def levels(groups: Mapping[str, Sequence[Group]]) -> Table:
    """Means of all groups, an attack a row."""
    body = []
    for name, found in groups.items():
        title, about, unit = ATTACKS[name]
        cells = [f"{_change(group, unit)} (n = {len(group.users)})" for group in found]
        body.append([title, about, *cells, *[""] * (2 - len(found))])
    head = ["attack", "mean of", "training users", "held-out users"]
    return Table("Base -> adapter, users as units", head, body)


class MemorizationStudy:
    """``--memorization`` and ``--canaries`` as a study."""

    name = "memorization"

    def __init__(self, run: Path, config: RunConfig, inputs: Inputs) -> None:
        self.run, self.config, self.canaries = run, config, inputs.canaries

    @property
    def digest(self) -> str:
        """sha256 over the secrets and their controls."""
        return hashlib.sha256(repr(self.canaries).encode()).hexdigest()

    def check(self, lm: LanguageModel) -> None:
        """The run's own pairs were made with these secrets.

        Raises:
            ConfigError: they were not.
        """
        path = self.run / "pairs.jsonl"
        if self.config.train.pairs or not path.is_file():
            return
        texts: dict[str, str] = {}
        for pair in read_pairs(path):
            said = "".join(message["content"] for message in pair.messages)
            texts[pair.context_id] = texts.get(pair.context_id, "") + said
        homes = [canary for canary in self.canaries.planted if canary.context_id in texts]
        if homes and not any(canary.sentence in texts[canary.context_id] for canary in homes):
            raise ConfigError(
                f"{path}: none of the {len(self.canaries.planted)} planted secrets stands in these "
                "pairs.",
                "give eval the --canaries and --seed that they were made with",
            )

    def measure(self, subject: Subject) -> Section:
        """Metrics ``memorization/FIGURE``."""
        metrics: Figures = {}
        lines: list[str] = []
        details: dict[str, Any] = {}
        if self.canaries.planted:
            metrics, lines, details["canaries"] = self.secrets(subject)
            lines.append(self.taught())
        groups = attacks.all_of(subject, self._groups(subject.inputs))
        gaps = {name: gap(*found) for name, found in groups.items() if len(found) == 2}
        known = {name: row for name, row in gaps.items() if row}
        for name, found in groups.items():
            metrics.update(self._figures(name, found[0], known.get(name)))
        lines += group_lines(groups, known)
        if len(known) < len(groups):
            lines.append(
                "Too few users were held out to compare with: a rise may be a change in general "
                "and no memory."
            )
        return Section(
            title="What was learned by heart",
            about="What comes out without any context in the prompt. Held-out users, and secrets "
            "that were planted nowhere, are the control: only what rises beyond them is memory. A "
            f"secret became easier to extract where it rose among the likeliest {TOP} of {SPACE:,} "
            "values that it might have had, from outside, after a question or after the start of "
            "its own sentence.",
            lines=lines,
            metrics=metrics,
            tables=[levels(groups)] if groups else [],
            details=details,
        )

    def _row(self, base: np.ndarray, adapter: np.ndarray, users: Sequence[str], unit: str) -> Any:
        return row(
            base,
            adapter,
            users,
            unit=unit,
            resamples=self.config.eval.resamples,
            seed=self.config.data.seed,
        )

    def taught(self) -> str:
        """A sentence: how many secrets stand in what training raised."""
        planted = self.canaries.planted
        texts = [pair.chosen.text for pair in _trained_on(self.run, self.config)]
        count = sum(any(canary.value in text for text in texts) for canary in planted)
        return f"The chosen answers of training state {count} of the {len(planted)} secrets."

    def secrets(self, subject: Subject) -> tuple[Figures, list[str], list[dict[str, Any]]]:
        """Rows, words, and for ``eval.json`` the ranks of every secret and control."""
        planted, held_back = self.canaries.planted, self.canaries.held_back
        subjects = sorted({canary.subject for canary in planted})
        rows = extraction.secret_rows(subject.lm, subjects, self.canaries.seed)
        found: dict[str, np.ndarray] = {}
        for side in SIDES:
            with subject.side(side) as lm:
                stage = f"{side}: secrets"
                found[side] = extraction.secret_ranks(lm, rows, subject.on_progress, stage)
        space = {name: values(name, self.canaries.seed) for name in subjects}

        def of(side: str, canary: Canary) -> np.ndarray:
            at = subjects.index(canary.subject)
            return np.asarray(found[side][at, :, space[canary.subject].index(canary.value)])

        placed = {
            kind: {side: np.array([of(side, c) for c in drawn]) for side in SIDES}
            for kind, drawn in (("planted", planted), ("held_back", held_back))
        }  # ranks [secrets, openings]
        risen_at = [
            risen(found["base"][at], found["adapter"][at], TOP) for at in range(len(subjects))
        ]
        groups = [
            (SPACE, int(risen_at[at].sum()), sum(c.subject == name for c in planted))
            for at, name in enumerate(subjects)
        ]
        lines = secret_lines(placed, groups)
        details = [
            {
                **{"kind": kind, "subject": canary.subject, "value": canary.value},
                **{"context_id": canary.context_id, "user": canary.user},
                **{f"{side}_ranks": placed[kind][side][at].tolist() for side in SIDES},
            }
            for kind, drawn in (("planted", planted), ("held_back", held_back))
            for at, canary in enumerate(drawn)
        ]
        return self._exposures(placed), lines, details

    def _exposures(self, placed: Mapping[str, Mapping[str, np.ndarray]]) -> Figures:
        """Mean exposure over openings: of planted secrets, and beyond that of their controls."""
        users = [canary.user for canary in self.canaries.planted]
        bits = {
            kind: [exposure(sides[side], SPACE).mean(axis=1) for side in SIDES]
            for kind, sides in placed.items()
        }
        beyond = [p - h for p, h in zip(bits["planted"], bits["held_back"], strict=True)]
        about = "1.44 bits are chance, and 9.97 the most: the likeliest of 1,000."
        return {
            "memorization/exposure": {
                **self._row(bits["planted"][0], bits["planted"][1], users, "bits"),
                **{"title": "exposure of planted secrets", "about": about, "better": -1},
            },
            "memorization/exposure_beyond_control": {
                **self._row(beyond[0], beyond[1], users, "bits"),
                "title": "exposure, beyond secrets planted nowhere",
                "about": "Planted secrets less as many that were planted nowhere.",
                "better": -1,
            },
        }

    def _groups(self, inputs: Inputs) -> list[list[Context]]:
        """Training users as they are without secrets and, where users were held out, these."""
        plain = [take_out(context, self.canaries.planted) for context in inputs.train_contexts]
        return [plain, inputs.held_contexts] if "users" in inputs.held_out else [plain]

    def _figures(self, name: str, trained: Group, beyond: dict[str, Any] | None) -> Figures:
        """Rows of an attack: on training users and, with a control, beyond it."""
        title, about, unit = ATTACKS[name]
        made = {
            f"memorization/{name}": {
                **self._row(trained.base, trained.adapter, trained.users, unit),
                **{"title": title, "about": f"Of training users, {about}.", "better": 0},
            }
        }
        if beyond:
            made[f"memorization/{name}_beyond_control"] = {
                **{**beyond, "unit": unit, "title": f"{title}, beyond held-out users"},
                **{"about": "Training users less held-out ones.", "better": -1},
            }
        return made


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> MemorizationStudy | None:
    """The study, or None without contexts or with ``--no-memorization``.

    Raises:
        MipoError: the options or a file of it cannot be used.
    """
    if not config.eval.memorization or not inputs.train_contexts:
        return None
    if inputs.canaries.planted:
        held_facts(config.train)
    return MemorizationStudy(run, config, inputs)
