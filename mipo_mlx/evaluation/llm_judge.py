"""A study: a judge model compares the answers of base and adapter to everything held out.

*pairwise*: both answers side by side, in both orders; the orders must agree, else it is a tie.
*paper*: each answer alone, scored from 1 to 5; the paper counts ties as wins, and so does one of
the figures here, beside what it hides.

The policy's memory is given back before the judge is loaded. Not covered: several judges; judges
behind a network service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mipo_mlx.config import GenerateConfig, RunConfig
from mipo_mlx.errors import ConfigError, DataError, ModelError
from mipo_mlx.evaluation.questions import Item
from mipo_mlx.evaluation.study import Measured, Study, Subject
from mipo_mlx.evaluation.win_rates import Duel, Ruling, Said, Setting, measured, outcome
from mipo_mlx.generation.answers import Ask, encode, sample
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.grading import judge_prompts
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import (
    LanguageModel,
    fingerprint,
    load_skeleton,
    locate,
    model_type,
)
from mipo_mlx.types import Context, Prompt, Response

Say = Callable[[Sequence[Ask]], Mapping[str, Response]]  # answers by key; some may be missing


def duels_of(items: Sequence[Item], answers: Mapping[str, Mapping[str, Response]]) -> list[Duel]:
    """A duel for each distinct item, in order."""
    return [
        Duel(item, answers["base"][key].text, answers["adapter"][key].text)
        for key, item in {item.key: item for item in items}.items()
    ]


def questions(duel: Duel, number: int, protocol: str) -> dict[str, Ask]:
    """What the judge is asked of a duel, by its name; nothing where there is nothing to choose.

    ``pairwise``: ``adapter_first`` and ``base_first``; ``paper``: ``base`` and ``adapter``, which
    are one question where both answers are the same.
    """
    context, request = duel.item.context, duel.item.prompt.text
    about = judge_prompts.instructions(protocol, context.text if context else "")
    system = Context(context.id if context else "", about)

    def ask(name: str, turn: str) -> Ask:
        return Ask(system, Prompt(f"{number}/{name}", turn))

    base, adapter = duel.base, duel.adapter
    if protocol == "paper":
        sides = {"base": base, "adapter": adapter}
        names = dict.fromkeys(sides, "both") if base == adapter else {side: side for side in sides}
        return {
            side: ask(names[side], judge_prompts.ask_score(request, text))
            for side, text in sides.items()
        }
    if duel.same:
        return {}
    return {
        "adapter_first": ask("adapter_first", judge_prompts.ask_pair(request, adapter, base)),
        "base_first": ask("base_first", judge_prompts.ask_pair(request, base, adapter)),
    }


def _heard(answer: Response | None, protocol: str) -> Said:
    if answer is None:
        return Said("", judge_prompts.TOO_LONG, "")
    read = judge_prompts.read_score if protocol == "paper" else judge_prompts.read_verdict
    reading = read(answer.text, cut_off=answer.finish_reason == "length")
    return Said(reading.value, reading.fault, answer.text)


def rule(duels: Sequence[Duel], protocol: str, say: Say) -> list[Ruling]:
    """What the judge makes of each duel.

    Args:
        duels: in the order in which they are told.
        protocol: one of ``judge_prompts.PROTOCOLS``.
        say: the judge; what it leaves out counts as too long for it.
    """
    asked = [questions(duel, number, protocol) for number, duel in enumerate(duels)]
    answers = say([ask for each in asked for ask in each.values()])
    rulings = []
    for each in asked:
        said = {name: _heard(answers.get(ask.key), protocol) for name, ask in each.items()}
        rulings.append(Ruling(outcome(said, protocol), said))
    return rulings


def kinship(
    policy: LanguageModel, judge: Path, judge_fingerprint: str
) -> tuple[str, tuple[str, ...]]:
    """``base`` or ``family`` where the judge is the policy's, else ""; and the family's types."""
    if judge_fingerprint == policy.fingerprint:
        return "base", ()
    kinds = {model_type(folder) for folder in (policy.path, judge)}
    if len({kind.lower().partition("_")[0].rstrip("0123456789") for kind in kinds}) > 1:
        return "", ()
    return "family", tuple(sorted(kinds))


class JudgeStudy(Study):
    """``--judge`` as a study, the last one."""

    name = "judge"

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the judge's files."""
        return fingerprint(self.folder)

    @property
    def digest(self) -> str:
        """The judge and how it is asked."""
        return f"{judge_prompts.version(self.config.eval.protocol)} {self.fingerprint}"

    @property
    def title(self) -> str:
        """What the judge is called: a folder by its last part."""
        name = self.config.eval.judge
        return self.folder.name if Path(name).expanduser().is_dir() else name

    @property
    def generate(self) -> GenerateConfig:
        """How the judge answers: greedily."""
        return replace(
            self.config.generate,
            temperature=0.0,
            context_template="bare",  # its instructions are no notes of a user
            answer_style="",
            max_tokens=self.config.eval.judge_max_tokens,
            enable_thinking=False,
        )

    def measure(self, subject: Subject) -> Measured:
        """Metrics ``judge/wins`` and, with scores, ``judge/score``; gives the model's memory back.

        Writes ``judge.jsonl``, a row a duel, texts included.
        """
        options = self.config.eval
        duels = duels_of(subject.items, subject.answers)
        kin, kinds = kinship(subject.lm, self.folder, self.fingerprint)
        subject.release()
        judge = open_model(options.judge, offline=self.config.data.offline)
        rulings = rule(duels, options.protocol, lambda asks: self._say(judge, subject, asks))
        setting = Setting(
            self.title,
            options.protocol,
            resamples=options.resamples,
            seed=self.config.data.seed,
            kinship=kin,
            kinds=kinds,
            more={"fingerprint": self.fingerprint, "max_tokens": options.judge_max_tokens},
        )
        return measured(duels, rulings, setting)

    def _say(
        self, judge: LanguageModel, subject: Subject, asks: Sequence[Ask]
    ) -> Mapping[str, Response]:
        """Answers to all that fits the judge's window."""
        stage = f"judge: {self.config.eval.protocol}"
        return sample(
            judge,
            [ask for ask in asks if self._fits(judge, ask)],
            self.generate,
            self.config.data.seed,
            subject.on_progress,
            stage,
            subject.journal(stage),
        )

    def _fits(self, judge: LanguageModel, ask: Ask) -> bool:
        try:
            encode(judge, ask.context, ask.prompt, self.generate)
        except DataError:
            return False
        return True


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> JudgeStudy | None:
    """The study of ``--judge``, or None without one; the judge is on this machine afterwards.

    Raises:
        ConfigError: options contradict each other, or the judge's window is too small for any duel.
        ModelError: there is no such judge, or it cannot answer here.
    """
    options = config.eval
    if not options.judge:
        if options.protocol != "pairwise":
            raise ConfigError(f"--protocol {options.protocol} has no use without a judge.",
                              "name one with --judge")  # fmt: skip
        return None
    if options.protocol == "paper" and config.data.objective == "prompt":
        raise ConfigError(
            "--protocol paper scores how personalized answers are, and there are no users with "
            "--objective prompt.",
            "take --protocol pairwise",
        )
    try:
        folder = locate(options.judge, offline=config.data.offline)
        skeleton = load_skeleton(options.judge, offline=config.data.offline)
    except ModelError as error:
        raise ModelError(f"--judge: {error.message}", error.hint) from error
    study = JudgeStudy(config, folder)
    _check_window(skeleton.tokenizer, skeleton.max_tokens, inputs, study)
    return study


def _check_window(tokenizer: Any, window: int | None, inputs: Inputs, study: JudgeStudy) -> None:
    """The judge's window must hold at least instructions and the shortest request."""
    options = study.config.eval
    if window is None or not inputs.held_prompts:
        return
    shortest = min((prompt.text for prompt in inputs.held_prompts), key=len)
    nobody = Duel(Item(None, Prompt("", shortest)), "a", "b")
    ask = next(iter(questions(nobody, 0, options.protocol).values()))
    messages = chat_template.messages(ask.context, ask.prompt)
    count = len(chat_template.prompt_ids(tokenizer, messages, enable_thinking=False))
    if count + options.judge_max_tokens > window:
        raise ConfigError(
            f"--judge {options.judge}: instructions and the shortest request take {count} tokens; "
            f"with {options.judge_max_tokens} for a verdict they pass its window of {window}.",
            "lower --judge-max-tokens, or take another judge",
        )
