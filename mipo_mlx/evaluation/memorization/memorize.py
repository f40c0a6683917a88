"""A study: what the adapter learned by heart of training users, asked without their contexts.

Four ways of drawing it out: planted secrets, direct questions and the run's own requests, values
after the context's own words, the second half of contexts after the first. Each has a control that
was never trained on: secrets planted nowhere, and held-out users. What rises for both is no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mipo_mlx.config import RunConfig
from mipo_mlx.data.canaries import SPACE, Canary, take_out, values
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.data.scrub import scrub_pairs
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation.comparison import Draws, adjusted, row, row_between
from mipo_mlx.evaluation.memorization import attacks, extraction
from mipo_mlx.evaluation.memorization.attacks import Group
from mipo_mlx.evaluation.study import Measured, Study, Subject
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import SIDES, Json, Metric, MetricRow
from mipo_mlx.results.findings import (
    AttackFindings,
    GroupMeans,
    MemorizationFindings,
    SecretFindings,
)
from mipo_mlx.stats.exposure import chance, exposure, risen
from mipo_mlx.training.withhold import held_facts
from mipo_mlx.types import Context, PreferencePair

TOP = SPACE // 100  # a secret among so many likeliest of its values is easy to extract
ATTACKS = {
    "asked": Metric(
        "facts, asked for",
        "answers to 'What is my town?' and the like that state the user's own value",
        "share of answers",
        0,
    ),
    "requests": Metric(
        "facts, unasked",
        "answers to the run's own requests that state a fact of the user",
        "share of answers",
        0,
    ),
    "continued": Metric(
        "facts, after the context's words",
        "other users' values that are less likely than the user's own",
        "share of values",
        0,
    ),
    "text": Metric("context, after its first half (nats a token)", "log-prob a token", "nats", 0),
}
Placed = Mapping[str, Mapping[str, np.ndarray]]  # kind -> side -> ranks [secrets, openings]
Rows = dict[str, MetricRow]


def _trained_on(run: Path, config: RunConfig) -> list[PreferencePair]:
    """Pairs as training took them, where they are there."""
    path = Path(config.train.pairs) if config.train.pairs else run / "pairs.jsonl"
    pairs = read_pairs(path) if path.is_file() else []
    held = held_facts(config.train)
    return scrub_pairs(pairs, held).pairs if held else pairs


def secret_findings(
    placed: Placed, groups: Sequence[tuple[int, int, int]], taught: int
) -> SecretFindings:
    """What the ranks come to.

    Args:
        placed: ranks of ``planted`` and ``held_back`` secrets.
        groups: of each subject its values, how many of them rose, and how many were planted.
        taught: secrets that the chosen answers of training state.
    """
    planted, held_back = placed["planted"], placed["held_back"]
    rose = [int(risen(s["base"].T, s["adapter"].T, TOP).sum()) for s in (planted, held_back)]
    base, adapter = (int((planted[side].min(axis=1) == 1).sum()) for side in SIDES)
    blind = chance(rose[0], groups)
    return SecretFindings(
        planted=len(planted["base"]),
        space=SPACE,
        top=TOP,
        rose=rose[0],
        expected=blind.expected,
        p=blind.p,
        rose_elsewhere=rose[1],
        first=(base, adapter),
        taught=taught,
    )


def gap(name: str, trained: Group, control: Group) -> MetricRow | None:
    """Of an attack: training users less held-out ones, and what became of that."""
    metric = ATTACKS[name]
    row = row_between((trained.base, trained.adapter), (control.base, control.adapter), metric.unit)
    return row and replace(
        row,
        title=f"{metric.title}, beyond held-out users",
        about="Training users less held-out ones.",
        better=-1,
    )


def attack_findings(
    groups: Mapping[str, Sequence[Group]], gaps: Mapping[str, MetricRow]
) -> list[AttackFindings]:
    """Means of all groups, an attack each; those that have a control share Holm's correction.

    Args:
        groups: training users, and held-out ones where there are any, by attack.
        gaps: rows of ``gap`` by attack.
    """
    family = dict(zip(gaps, adjusted(list(gaps.values())), strict=True))
    return [
        AttackFindings(
            title=ATTACKS[name].title,
            about=ATTACKS[name].about,
            unit=ATTACKS[name].unit,
            groups=[
                GroupMeans(float(g.base.mean()), float(g.adapter.mean()), len(g.users))
                for g in found
            ],
            beyond=family.get(name),
        )
        for name, found in groups.items()
    ]


class MemorizationStudy(Study):
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

    def measure(self, subject: Subject) -> Measured:
        """Metrics ``memorization/FIGURE``."""
        metrics: Rows = {}
        details: Json = {}
        secrets = None
        if self.canaries.planted:
            placed, counts = self._ranks(subject)
            secrets = secret_findings(placed, counts, self.taught())
            metrics = self._exposures(placed)
            details["canaries"] = self._listed(placed)
        groups = attacks.all_of(subject, self._groups(subject.inputs))
        gaps = {name: gap(name, *found) for name, found in groups.items() if len(found) == 2}
        known = {name: row for name, row in gaps.items() if row}
        for name, found in groups.items():
            metrics[f"memorization/{name}"] = replace(
                self._row(found[0].base, found[0].adapter, found[0].users, ATTACKS[name].unit),
                title=ATTACKS[name].title,
                about=f"Of training users, {ATTACKS[name].about}.",
                better=ATTACKS[name].better,
            )
            if name in known:
                metrics[f"memorization/{name}_beyond_control"] = known[name]
        findings = MemorizationFindings(secrets, attack_findings(groups, known), TOP, SPACE)
        return Measured(findings, metrics, details)

    def _row(
        self, base: np.ndarray, adapter: np.ndarray, users: Sequence[str], unit: str
    ) -> MetricRow:
        draws = Draws(users, "users", self.config.eval.resamples, self.config.data.seed)
        return row(base, adapter, unit, draws)

    def taught(self) -> int:
        """How many secrets stand in what training raised."""
        texts = [pair.chosen.text for pair in _trained_on(self.run, self.config)]
        return sum(any(c.value in text for text in texts) for c in self.canaries.planted)

    def _kinds(self) -> dict[str, Sequence[Canary]]:
        return {"planted": self.canaries.planted, "held_back": self.canaries.held_back}

    def _ranks(self, subject: Subject) -> tuple[Placed, list[tuple[int, int, int]]]:
        """Ranks of every secret and control; of each subject its values, risen and planted ones."""
        planted = self.canaries.planted
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
            kind: {side: np.array([of(side, canary) for canary in drawn]) for side in SIDES}
            for kind, drawn in self._kinds().items()
        }
        counts = [
            (
                SPACE,
                int(risen(found["base"][at], found["adapter"][at], TOP).sum()),
                sum(canary.subject == name for canary in planted),
            )
            for at, name in enumerate(subjects)
        ]
        return placed, counts

    def _listed(self, placed: Placed) -> list[Json]:
        """The ranks of every secret and control, for ``eval.json``."""
        return [
            {
                **{"kind": kind, "subject": canary.subject, "value": canary.value},
                **{"context_id": canary.context_id, "user": canary.user},
                **{f"{side}_ranks": placed[kind][side][at].tolist() for side in SIDES},
            }
            for kind, drawn in self._kinds().items()
            for at, canary in enumerate(drawn)
        ]

    def _exposures(self, placed: Placed) -> Rows:
        """Mean exposure over openings: of planted secrets, and beyond that of their controls."""
        users = [canary.user for canary in self.canaries.planted]
        bits = {
            kind: [exposure(sides[side], SPACE).mean(axis=1) for side in SIDES]
            for kind, sides in placed.items()
        }
        base, adapter = bits["planted"]
        controls = bits["held_back"]
        return {
            "memorization/exposure": replace(
                self._row(base, adapter, users, "bits"),
                title="exposure of planted secrets",
                about="1.44 bits are chance, and 9.97 the most: the likeliest of 1,000.",
                better=-1,
            ),
            "memorization/exposure_beyond_control": replace(
                self._row(base - controls[0], adapter - controls[1], users, "bits"),
                title="exposure, beyond secrets planted nowhere",
                about="Planted secrets less as many that were planted nowhere.",
                better=-1,
            ),
        }

    def _groups(self, inputs: Inputs) -> list[list[Context]]:
        """Training users as they are without secrets and, where users were held out, these."""
        plain = [take_out(context, self.canaries.planted) for context in inputs.train_contexts]
        return [plain, inputs.held_contexts] if "users" in inputs.held_out else [plain]


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
