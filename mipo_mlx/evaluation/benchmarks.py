"""Nothing else worse: base against adapter on problems with known answers, in two modes.

*Generation*: greedy answers, their final number or choice read by ``data.finals``. Each is one of
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
from typing import Any

import mlx.core as mx
import numpy as np

from mipo_mlx.config import EvalConfig, GenerateConfig, RunConfig
from mipo_mlx.core.mutual_information import choice_entropy
from mipo_mlx.data.benchmarks import read_task
from mipo_mlx.data.hub import local_file
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.errors import ConfigError, DataError
from mipo_mlx.evaluation.metrics import letter_rows
from mipo_mlx.evaluation.study import SIDES, Section, Subject, Table
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.generation.pairs import AnswerJournal, Ask, encode, sample
from mipo_mlx.grading import benchmark_prompts
from mipo_mlx.grading.final_answer import final_answer, is_right, offered
from mipo_mlx.inference.scoring import score
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.results import change, outcome, told
from mipo_mlx.stats.intervals import paired_bootstrap_among
from mipo_mlx.types import Progress, Prompt, Response

Columns = dict[str, np.ndarray]
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


def measure(
    lm: LanguageModel,
    task: Task,
    generate: GenerateConfig,
    *,
    max_tokens: int,
    on_progress: Progress,
    who: str,
    journal: AnswerJournal | None = None,
) -> Columns:
    """Columns of one model on one task, generation and, for choices, letters."""
    greedy = replace(generate, temperature=0.0, top_p=1.0, max_tokens=max_tokens)
    wanted = [Ask(None, prompt) for prompt in task.prompts]
    answers = sample(lm, wanted, greedy, 0, on_progress, f"{who}: {task.name}", journal)
    columns = grade_answers(task.prompts, [answers[ask.key] for ask in wanted])
    if all(prompt.kind == "choice" for prompt in task.prompts):
        logps: list[tuple[float, ...]] = []
        stage = f"{who}: {task.name}, letters"
        for row in score(lm, letter_rows(lm, task.prompts, greedy)):
            logps.append(row)
            on_progress(stage, len(logps), len(task.prompts))
        columns.update(grade_letters(task.prompts, logps))
    return columns


def compare(
    base: Columns, adapter: Columns, *, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Figures with paired bootstrap 95% intervals over problems, by name.

    A figure of some problems only has the count of each side in ``counted``, the lesser as ``n``;
    one that nothing counts for on a side is left out. ``sd`` is over problems.
    """
    figures: dict[str, dict[str, Any]] = {}
    for name, (column, among, unit) in FIGURES.items():
        if column not in base:
            continue
        sides = []
        for columns in (base, adapter):
            counts = columns[among] if among else np.ones(len(columns[column]))
            sides += [columns[column], counts]
        if not sides[1].any() or not sides[3].any():
            continue
        interval = paired_bootstrap_among(*sides, resamples=resamples, seed=seed)
        own = [sides[0][sides[1] > 0], sides[2][sides[3] > 0]]
        figures[name] = {
            "base": float(own[0].mean()),
            "adapter": float(own[1].mean()),
            "delta": interval.delta,
            "ci95": [interval.low, interval.high],
            "p": interval.p,
            "n": min(map(len, own)),
            "unit": unit,
        }
        if among:
            figures[name]["counted"] = [len(side) for side in own]
        if unit == "nats":
            figures[name]["sd"] = [float(side.std()) for side in own]
    return figures


def sentence(name: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What became of a task: its accuracy, then whatever else changed.

    Args:
        name: of the task.
        figures: as ``compare`` makes them.
    """
    found = []
    for figure, row in figures.items():
        words = figure.replace("_", " ")
        if change(row) != "none seen":
            found.append(f"{words} {outcome({'resampled': 'problems', **row})}")
        elif figure == "accuracy":
            low, high = (told(value, row["unit"], sign=True) for value in row["ci95"])
            found.append(
                f"no difference seen in {words} at n = {row['n']} problems (95% interval "
                f"{low.removesuffix(' points')} to {high})"
            )
    return f"{name}: {'; '.join(found)}."


def table(names: Sequence[str], metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every figure of every task, base and adapter in two columns; entropies with their sd.

    Args:
        names: of tasks.
        metrics: rows ``tasks/NAME/FIGURE``.
    """
    body = []
    for name in names:
        for figure, (_, _, unit) in FIGURES.items():
            row = metrics.get(f"tasks/{name}/{figure}")
            if row is None:
                continue
            cells = []
            for at, side in enumerate(SIDES):
                spread = f" (sd {row['sd'][at]:.3f})" if "sd" in row else ""
                share = f"{100 * row[side]:.1f}%"
                cells.append(share if unit.startswith("share") else f"{row[side]:.3f}{spread}")
            counted = " and ".join(map(str, dict.fromkeys(row.get("counted", [row["n"]]))))
            low, high = row["ci95"]
            body.append(
                [
                    f"{name}: {figure.replace('_', ' ')}",
                    *cells,
                    f"{row['delta']:+.3f} [{low:+.3f}, {high:+.3f}]",
                    counted,
                ]
            )
    return Table(
        "Answers are greedy; choice entropy is over the labels offered, in nats, its mean and sd "
        "over problems, and right and wrong are by the likeliest label.",
        ["task", *SIDES, "difference, 95% interval", "problems"],
        body,
    )


class TaskStudy:
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
        trained = {message["content"] for pair in pairs for message in pair.messages}
        refuse_trained(self.tasks, trained)
        check_window(lm, self.tasks, self.config.generate, self.config.eval.task_max_tokens)

    def measure(self, subject: Subject) -> Section:
        """Metrics ``tasks/NAME/FIGURE``."""
        options = self.config.eval
        metrics: dict[str, Any] = {}
        details: dict[str, Any] = {}
        lines: list[str] = []
        for task in self.tasks:
            columns = {}
            for side in SIDES:
                with subject.side(side):
                    columns[side] = measure(
                        subject.lm,
                        task,
                        self.config.generate,
                        max_tokens=options.task_max_tokens,
                        on_progress=subject.on_progress,
                        who=side,
                        journal=subject.journal(f"{side}: {task.name}"),
                    )
            base, tuned = columns["base"], columns["adapter"]
            figures = compare(base, tuned, resamples=options.resamples, seed=self.config.data.seed)
            metrics.update({f"tasks/{task.name}/{name}": row for name, row in figures.items()})
            lines.append(sentence(task.name, figures))
            details[task.name] = result(task, options.task_prompts, base, tuned)
        return Section(
            title="Other tasks",
            about="Problems with known answers, to see whether anything else became worse.",
            lines=lines,
            metrics=metrics,
            tables=[table([task.name for task in self.tasks], metrics)],
            details=details,
        )


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


def result(task: Task, style: str, base: Columns, adapter: Columns) -> dict[str, Any]:
    """What ``eval.json`` keeps of a task: every column of both models, an entry a problem."""
    return {
        "wording": benchmark_prompts.version(style),
        "ids": [prompt.id for prompt in task.prompts],
        "base": {name: column.tolist() for name, column in base.items()},
        "adapter": {name: column.tolist() for name, column in adapter.items()},
    }
