"""Nothing else worse: base against adapter on problems with known answers, in two modes.

*Generation*: greedy answers, their final number or choice read by ``grading.final_answer``. Each is
correct, wrong, unparsed (finished, but nothing to read) or cut off (before a whole final answer).
*Letters*: log-likelihood of "The answer is: L" after the prompt, for every label L that is offered;
the likeliest is the model's choice, and their entropy is split by whether it is right.

Columns hold an entry a problem, so that any statistic can be taken of them later.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mipo_mlx.config import EvalConfig, GenerateConfig, RunConfig
from mipo_mlx.core.mutual_information import choice_entropy
from mipo_mlx.data.benchmarks import read_task
from mipo_mlx.data.hub import local_file
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.errors import ConfigError, DataError
from mipo_mlx.evaluation.comparison import row_among
from mipo_mlx.evaluation.metrics import Columns, letter_rows
from mipo_mlx.evaluation.study import Measured, Study, Subject
from mipo_mlx.generation.answers import AnswerJournal, Ask, encode, sample, wrapper_of
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.grading import benchmark_prompts
from mipo_mlx.grading.final_answer import final_answer, is_right, offered
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import SIDES, Json, MetricRow
from mipo_mlx.results.findings import BenchmarkFindings
from mipo_mlx.stats.bootstrap import Counted
from mipo_mlx.types import Progress, Prompt, Response

REPEATED = 0.05  # share of a file's problems that may repeat those of training, and are left out

# figure -> (its column, the column of those that count for it or "", unit)
FIGURES = {
    "accuracy": ("correct", "", "share of answers"),
    "accuracy_of_parsed": ("correct", "parsed", "share of parsed answers"),
    "parse_failures": ("unparsed", "", "share of answers"),
    "cut_offs": ("cut_off", "", "share of answers"),
    "letter_accuracy": ("letter_correct", "", "share of problems"),
    "choice_entropy": ("entropy", "", "nats"),
    "choice_entropy_correct": ("entropy", "letter_correct", "nats"),
    "choice_entropy_incorrect": ("entropy", "letter_wrong", "nats"),
}


@dataclass(frozen=True)
class Task:
    """Problems under one name."""

    name: str
    prompts: list[Prompt]


def _untrained(prompts: list[Prompt], trained: Set[str]) -> list[Prompt]:
    """Problems but for the few that stand among those of training too, as in some published splits.

    All, where they are many: then the wrong split was given, and ``TaskStudy.check`` says so.
    """
    fresh = [prompt for prompt in prompts if prompt.text not in trained]
    return fresh if len(prompts) - len(fresh) <= REPEATED * len(prompts) else prompts


def read_tasks(
    config: EvalConfig, *, seed: int, offline: bool, trained: Set[str] = frozenset()
) -> list[Task]:
    """The problems of ``--tasks``, of each a seeded draw of ``--task-limit`` in their order.

    Args:
        config: with the option.
        seed: of the draws.
        offline: refuse the network.
        trained: texts of prompts that are trained on; problems among them are left out.

    Raises:
        ConfigError: the option is malformed.
        DataError: a file cannot be used; the message names file, line and fault.
    """
    tasks: list[Task] = []
    for part in filter(None, (part.strip() for part in config.tasks.split(","))):
        name, equals, file = part.partition("=")
        if not equals or not file or not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"--tasks: {part!r} is not NAME=FILE.", "gsm8k=test.jsonl")
        if name in {task.name for task in tasks}:
            raise ConfigError(f"--tasks: {name!r} is given twice.", "one name a file")
        prompts = read_task(local_file(file, offline=offline), config.task_prompts)
        prompts = _untrained(prompts, trained)
        if 0 < config.task_limit < len(prompts):
            drawn = random.Random(f"{seed}:{name}").sample(range(len(prompts)), config.task_limit)
            prompts = [prompts[index] for index in sorted(drawn)]
        tasks.append(Task(name, [replace(p, id=f"{name}/{p.id}") for p in prompts]))
    return tasks


def digest(tasks: Sequence[Task]) -> str:
    """sha256 over all problems and their answers."""
    sha = hashlib.sha256()
    for prompt in (prompt for task in tasks for prompt in task.prompts):
        sha.update("\x1f".join([prompt.id, prompt.text, prompt.answer or "", "\x1e"]).encode())
    return sha.hexdigest()


def refuse_trained(tasks: Sequence[Task], trained: Set[str]) -> None:
    """Problems must not stand among the texts that were trained on.

    Raises:
        ConfigError: they do.
    """
    for task in tasks:
        seen = [prompt for prompt in task.prompts if prompt.text in trained]
        if seen:
            raise ConfigError(
                f"{len(seen)} of {len(task.prompts)} problems of task {task.name!r} were "
                f"trained on, {seen[0].source} among them.",
                "give --tasks a split that was not trained on",
            )


def check_window(
    lm: LanguageModel, tasks: Sequence[Task], generate: GenerateConfig, max_tokens: int
) -> None:
    """Every problem and its answer must fit the model's window.

    Raises:
        DataError: one does not.
    """
    longest = replace(generate, max_tokens=max_tokens)
    for task in tasks:
        for prompt in task.prompts:
            try:
                encode(lm, None, prompt, longest)
            except DataError as error:
                hint = "lower --task-max-tokens, or take --task-prompts ours"
                raise DataError(error.message, hint) from error


def grade_answers(prompts: Sequence[Prompt], answers: Sequence[Response]) -> Columns:
    """0 or 1 a problem: correct, parsed, unparsed, cut_off; the last three add up to 1. [n]"""
    said = [final_answer(p, answer) for p, answer in zip(prompts, answers, strict=True)]
    parsed = np.array([word is not None for word in said], float)
    ended = np.array([answer.finish_reason != "length" for answer in answers], float)
    right = [is_right(prompt, word) for prompt, word in zip(prompts, said, strict=True)]
    return {
        "correct": np.array(right, float),
        "parsed": parsed,
        "unparsed": (1 - parsed) * ended,
        "cut_off": (1 - parsed) * (1 - ended),
    }


def grade_letters(prompts: Sequence[Prompt], logps: Sequence[Sequence[float]]) -> Columns:
    """The choice of the likeliest label, and the entropy over labels, a choice problem each. [n]

    Args:
        prompts: of kind ``choice``.
        logps: log-probs of the labels of each, nats, in the order offered. A tie is no choice.
    """
    right, entropy = [], []
    for prompt, row in zip(prompts, logps, strict=True):
        own = [label for label, _ in offered(prompt)].index(prompt.answer or "")
        right.append(all(row[own] > other for at, other in enumerate(row) if at != own))
        entropy.append(choice_entropy(mx.array([list(row)])).item())
    correct = np.array(right, float)
    return {
        "letter_correct": correct,
        "letter_wrong": 1 - correct,
        "entropy": np.array(entropy, float),
    }


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        generate: greedily.
        stage: what this is called.
        on_progress: told of stages.
        journal: keeps the answers.
    """

    generate: GenerateConfig
    stage: str
    on_progress: Progress
    journal: AnswerJournal | None = None


def measure(lm: LanguageModel, task: Task, asking: Asking) -> Columns:
    """Columns of one model on one task, generation and, for choices, letters."""
    wanted = [Ask(None, prompt) for prompt in task.prompts]
    answers = sample(
        lm, wanted, asking.generate, 0, asking.on_progress, asking.stage, asking.journal
    )
    columns = grade_answers(task.prompts, [answers[ask.key] for ask in wanted])
    if all(prompt.kind == "choice" for prompt in task.prompts):
        logps: list[tuple[float, ...]] = []
        for row in score(lm, letter_rows(lm, task.prompts, asking.generate)):
            logps.append(row)
            asking.on_progress(f"{asking.stage}, letters", len(logps), len(task.prompts))
        columns.update(grade_letters(task.prompts, logps))
    return columns


def compare(base: Columns, adapter: Columns, *, resamples: int, seed: int) -> dict[str, MetricRow]:
    """Figures with paired bootstrap 95% intervals over problems, by name.

    A figure of some problems only has the count of each side in ``counted``; one that nothing
    counts for on a side is left out.
    """
    figures: dict[str, MetricRow] = {}
    for name, (column, among, unit) in FIGURES.items():
        if column not in base:
            continue
        one, two = (
            Counted(side[column], side[among] if among else np.ones(len(side[column])))
            for side in (base, adapter)
        )
        found = row_among(one, two, unit, resamples, seed)
        if found and among:
            found = replace(found, counted=(one.own.size, two.own.size))
        if found:
            figures[name] = found
    return figures


class TaskStudy(Study):
    """``--tasks`` as a study: is anything else worse?"""

    name = "tasks"

    def __init__(self, run: Path, config: RunConfig, tasks: Sequence[Task]) -> None:
        self.run, self.config, self.tasks = run, config, tasks

    @property
    def digest(self) -> str:
        """sha256 over all problems and their answers."""
        return digest(self.tasks)

    def check(self, lm: LanguageModel) -> None:
        """Problems fit the model's window, and none stands in the run's pairs.

        Raises:
            ConfigError: problems were trained on.
            DataError: one does not fit.
        """
        path = self.run / "pairs.jsonl"
        pairs = read_pairs(path) if path.is_file() else []
        wrapper = wrapper_of(self.config.generate)
        trained = {wrapper.unwrapped(m) for pair in pairs for m in pair.messages}
        refuse_trained(self.tasks, trained)
        check_window(lm, self.tasks, self.config.generate, self.config.eval.task_max_tokens)

    def measure(self, subject: Subject) -> Measured:
        """Metrics ``tasks/NAME/FIGURE``."""
        options = self.config.eval
        metrics: dict[str, MetricRow] = {}
        details: Json = {}
        greedy = replace(
            self.config.generate, temperature=0.0, top_p=1.0, max_tokens=options.task_max_tokens
        )
        for task in self.tasks:
            columns = {}
            for side in SIDES:
                with subject.side(side) as lm:
                    who = f"{side}: {task.name}"
                    asking = Asking(greedy, who, subject.on_progress, subject.journal(who))
                    columns[side] = measure(lm, task, asking)
            figures = compare(
                *columns.values(), resamples=options.resamples, seed=self.config.data.seed
            )
            metrics |= {f"tasks/{task.name}/{name}": row for name, row in figures.items()}
            details[task.name] = result(task, options.task_prompts, columns)
        return Measured(BenchmarkFindings([task.name for task in self.tasks]), metrics, details)


def prepare(run: Path, config: RunConfig, inputs: Inputs) -> TaskStudy | None:
    """The study of ``--tasks``, or None without any.

    Raises:
        MipoError: the option or a file of it cannot be used.
    """
    trained = set() if config.train.pairs else {prompt.text for prompt in inputs.train_prompts}
    tasks = read_tasks(
        config.eval, seed=config.data.seed, offline=config.data.offline, trained=trained
    )
    refuse_trained(tasks, trained)  # before anything is made
    return TaskStudy(run, config, tasks) if tasks else None


def result(task: Task, style: str, columns: Mapping[str, Columns]) -> Json:
    """What ``eval.json`` keeps of a task: every column of both models, an entry a problem."""
    return {
        "wording": benchmark_prompts.version(style),
        "ids": [prompt.id for prompt in task.prompts],
        **{
            side: {name: column.tolist() for name, column in own.items()}
            for side, own in columns.items()
        },
    }
