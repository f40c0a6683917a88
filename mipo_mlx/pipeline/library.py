"""The steps as functions of models and records, for Python: what ``import mipo_mlx`` offers.

Options are those of ``docs/cli.md`` by name. Nothing is written but what a name asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mipo_mlx.config import RunConfig, resolve
from mipo_mlx.data import readers
from mipo_mlx.data.grid import lay_out
from mipo_mlx.data.split import alike
from mipo_mlx.data.split import split as split_by_name
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation import metrics as measuring
from mipo_mlx.evaluation.comparison import Asked, compare, titled_rows
from mipo_mlx.evaluation.questions import Item, Questions, context_groups, known_values
from mipo_mlx.generation.contrasts import rules_of
from mipo_mlx.generation.inputs import Inputs
from mipo_mlx.generation.pairs import generate
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.inference.reference import with_ids
from mipo_mlx.models import lora
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.pipeline import train as training
from mipo_mlx.pipeline.run import run as run_all
from mipo_mlx.reporting.summary import Report
from mipo_mlx.results import SIDES, EvalResult, Metric
from mipo_mlx.training.defaults import with_rate
from mipo_mlx.training.distributed import Ranks
from mipo_mlx.training.objectives import Objective, objective_of
from mipo_mlx.training.rows import training_rows
from mipo_mlx.training.trainer import StepMetrics, Trainer
from mipo_mlx.types import Context, PreferencePair, Progress, Prompt, silent

Source = str | Path
T = TypeVar("T", Context, Prompt)
Negatives = Callable[[Sequence[Context]], Mapping[str, Sequence[str]]]
OwnMetric = Callable[[Context, Prompt, str], float]


def load_model(name: Source, *, offline: bool = False) -> LanguageModel:
    """Open a model and check the ways of running it.

    Args:
        name: ``embedded``, a folder, or a hub id ``owner/name``.
        offline: refuse the network.

    Raises:
        ModelError: it cannot be found, opened or run.
    """
    return open_model(str(name), offline=offline)


def read_contexts(
    path: Source, importer: Callable[[Path], list[Context]] = readers.read_contexts
) -> list[Context]:
    """Contexts of a file or folder; ``importer`` reads a format of your own."""
    return importer(Path(path))


def read_prompts(
    path: Source, importer: Callable[[Path], list[Prompt]] = readers.read_prompts
) -> list[Prompt]:
    """Prompts of a file; ``importer`` reads a format of your own."""
    return importer(Path(path))


def split(items: Sequence[T], held_out: float = 0.2, seed: int = 0) -> tuple[list[T], list[T]]:
    """Items to train on and items held out, by a hash of names; texts that are alike stay together.

    Args:
        items: contexts, whose users are never cut apart, or prompts.
        held_out: share, 0 to 1; at least one name on each side.
        seed: another seed, another split.

    Raises:
        ConfigError: all items are one user's, or one prompt.
    """
    names = [item.owner if isinstance(item, Context) else item.id for item in items]
    name_of = alike(zip(names, (item.text for item in items), strict=True))
    groups: dict[str, list[T]] = {}
    for name, item in zip(names, items, strict=True):
        groups.setdefault(name_of[name], []).append(item)
    if len(groups) < 2:
        raise ConfigError(
            f"{len(items)} items of {len(groups)} name cannot be split.", "give at least two"
        )
    sides = split_by_name(groups, held_out, seed)
    train, held = ([item for group in side for item in group] for side in sides)
    return train, held


def _config(lm: LanguageModel, seed: int, options: Mapping[str, Any]) -> RunConfig:
    return resolve(flags={"model": lm.name, "seed": seed, **options})


@uncompiled_on_cpu()
def generate_pairs(
    lm: LanguageModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    *,
    negatives: str | Negatives = "random",
    seed: int = 0,
    on_progress: Progress = silent,
    **options: Any,
) -> list[PreferencePair]:
    """Sample answers, and pair each with another user's; reference log-probs are filled in.

    Args:
        lm: the model.
        contexts: users.
        prompts: asked of them.
        negatives: as ``--negatives``; or a function that is given the contexts and returns, by id
            of a context, ids of the others whose answers may be rejected under it, best first.
        seed: of every choice.
        on_progress: told of stages.
        options: of generation, such as ``max_tokens=48``.

    Raises:
        MipoError: an option is unknown, or no pair can be made.
    """
    near = None
    if not isinstance(negatives, str):
        near, negatives = negatives(contexts), "hard"
    config = _config(lm, seed, {"negatives": negatives, **options})
    inputs = Inputs(list(contexts), [], [], [], list(prompts), [], "nothing", "")
    rules = rules_of(inputs, config)
    grid = lay_out(contexts, (), prompts, rules, near)
    return generate(lm, grid, rules, config.generate, on_progress=on_progress).pairs


@uncompiled_on_cpu()
def train(
    lm: LanguageModel,
    pairs: Sequence[PreferencePair],
    *,
    loss: Objective | None = None,
    seed: int = 0,
    on_progress: Progress = silent,
    **options: Any,
) -> list[StepMetrics]:
    """Put a fresh adapter on the model and train it; the model carries it from then on.

    Args:
        lm: the model, without an adapter.
        pairs: of ``generate_pairs``, or your own; ids and log-probs that lack are filled in.
        loss: such as ``DPO(beta=0.1)``, or ``Custom(function=...)``; that of ``options`` when None.
        seed: of the adapter and of the order of steps.
        on_progress: told of steps.
        options: of training, such as ``epochs=2``.

    Raises:
        MipoError: an option is unknown, pairs cannot be used, or the loss stops being finite.
    """
    config = _config(lm, seed, options)
    config = replace(config, train=with_rate(lm, config.train))
    objective = loss or objective_of(config.train)
    shape = training.attach(lm, config.train, seed)
    thinking = config.generate.enable_thinking
    whole = [with_ids(lm, pair, thinking) for pair in pairs]
    whole = training.referred(lm, whole, config, on_progress)
    crossed = objective.crossed
    rows = training_rows(lm, whole, config, Path("pairs"), crossed)
    plan = training.proven(lm, rows, config, Ranks(), shape)
    trainer = Trainer(lm, rows, config.train, seed=seed, plan=plan, objective=objective)
    steps = []
    for step in trainer.run():
        steps.append(step)
        on_progress(f"train, loss {step.values['loss']:.3f}", step.step, step.total_steps)
    lm.adapter = {"shape": shape, "loss": _named(objective), "options": asdict(config.train)}
    return steps


def _named(objective: Objective) -> str:
    """A loss by name; of a function of one's own, where it stands."""
    function = getattr(objective, "function", None)
    if function is None:
        return repr(objective)
    return f"{type(objective).__name__}({function.__module__}.{function.__qualname__})"


def save_adapter(lm: LanguageModel, folder: Source) -> Path:
    """Write the adapter that ``train`` made; it opens in mlx-lm, and names its loss and options.

    Raises:
        ConfigError: the model has not been trained.
    """
    if lm.adapter is None:
        raise ConfigError(f"{lm.name} carries no adapter.", "call train first")
    extra = {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "mipo": {**lm.adapter["options"], "loss": lm.adapter["loss"]},
    }
    lora.save(lm, Path(folder), lm.adapter["shape"], extra=extra)
    return Path(folder)


@uncompiled_on_cpu()
def evaluate(
    lm: LanguageModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    *,
    metrics: Mapping[str, OwnMetric] | None = None,
    seed: int = 0,
    on_progress: Progress = silent,
    **options: Any,
) -> EvalResult:
    """The base against the adapter that the model carries, on users and prompts held out.

    Args:
        lm: a trained model.
        contexts: users, two or more, never trained on.
        prompts: never trained on.
        metrics: your own, by name: a number for an answer's text under a context and a prompt.
        seed: of sampling and resampling.
        on_progress: told of stages.
        options: of sampling and evaluation, such as ``resamples=1000``.

    Raises:
        MipoError: an option is unknown, or there is too little to compare.
    """
    config = _config(lm, seed, options)
    groups = context_groups(contexts, prompts, config.eval)
    asked = Questions(groups, known_values(contexts), config.generate, seed + 1, on_progress)
    columns, answers = {}, {}
    for side in SIDES:
        with lora.side(lm, side):
            columns[side], answers[side] = measuring.measure(lm, asked, side)
    items, resamples = asked.items, config.eval.resamples
    rows = compare(columns["base"], columns["adapter"], items, resamples=resamples, seed=seed)
    own = {
        side: {
            name: np.array(
                [_number(function, item, answers[side][item.key].text) for item in items]
            )
            for name, function in (metrics or {}).items()
        }
        for side in SIDES
    }
    told = {name: Metric(name, "a metric of your own", "", 0) for name in metrics or {}}
    rows |= titled_rows(Asked("own", "held-out users", items), own, told, config)
    changed, examples = measuring.examples(items, answers["base"], answers["adapter"])
    return EvalResult(
        metrics=rows,
        sections={},
        changed=changed,
        answers=len(items),
        examples=examples,
        items=measuring.values(columns["base"], columns["adapter"]),
    )


def _number(function: OwnMetric, item: Item, text: str) -> float:
    if item.context is None:
        raise ConfigError("metrics of your own need contexts.", "give contexts")
    return float(function(item.context, item.prompt, text))


def run(folder: Source, *, on_progress: Progress = silent, **options: Any) -> Report:
    """``mipo run``: generate, train, evaluate and report in a run directory.

    Args:
        folder: of the run; steps already done with the same inputs are skipped.
        on_progress: told of stages.
        options: all of ``docs/cli.md``, by name.

    Raises:
        MipoError: an option or a file cannot be used.
    """
    return run_all(Path(folder), resolve(flags=options), on_progress)
