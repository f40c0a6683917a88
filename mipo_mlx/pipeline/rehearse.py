"""``mipo reproduce --dry-run``: what a recipe's run would need. Writes nothing, and downloads no
weights and no data; at most the configuration and tokenizer of the model.

Counts come from the data where they are on this machine, else from what is published of them.
"""

from __future__ import annotations

from typing import Any

from mipo_mlx.config import RunConfig
from mipo_mlx.data.hub import local_file
from mipo_mlx.errors import DataError, MipoError, ModelError
from mipo_mlx.evaluation.benchmarks import read_tasks
from mipo_mlx.generation.contrasts import PROMPTS_PER_CONTEXT, contrasts_of, grid_of, rules_of
from mipo_mlx.generation.inputs import Inputs, read_inputs
from mipo_mlx.models.load import HUB_ID, Download, locate
from mipo_mlx.pipeline import doctor
from mipo_mlx.pipeline.reproduce import Cell
from mipo_mlx.recipes import Recipe

BYTES = 2  # a parameter, in bf16


def _places(config: RunConfig) -> set[str]:
    """What the files are read from."""
    tasks = [part.partition("=")[2] for part in config.eval.tasks.split(",") if part]
    return {config.data.contexts, config.data.prompts, *tasks} - {""}


def _here(place: str) -> bool:
    try:
        return local_file(place, offline=True).exists()
    except DataError:
        return False


def _model_here(name: str) -> bool:
    try:
        return bool(locate(name, offline=True))
    except ModelError:
        if not HUB_ID.fullmatch(name):
            raise
        return False


def _downloads(cell: Cell) -> list[dict[str, Any]]:
    """What is not on this machine yet; ``bytes`` is None where it is not known."""
    config = cell.config
    wanted: list[dict[str, Any]] = [
        {"what": file.address, "bytes": file.bytes or None, "note": file.licence}
        for file in cell.recipe.files
        if file.address in _places(config) and not _here(file.address)
    ]
    name = config.data.model
    if not _model_here(name):
        paper = cell.model if cell.model and cell.model.id == name else None
        size = int(BYTES * paper.parameters) if paper else None
        note = paper.access if paper else "a model of your own choice"
        wanted.append({"what": name, "bytes": size, "note": note})
    return wanted


def _measured(config: RunConfig, inputs: Inputs) -> dict[str, int]:
    """Counts from the data themselves."""
    answers = grid_of(inputs, rules_of(inputs, config)).cells
    trained = {prompt.text for prompt in inputs.train_prompts}
    found = read_tasks(
        config.eval, seed=config.data.seed, offline=config.data.offline, trained=trained
    )
    held = len(inputs.held_prompts)
    if config.data.objective == "context":
        users_held = min(len(inputs.held_contexts), config.eval.eval_contexts or 10**9)
        held = users_held * min(held, config.eval.eval_prompts_per_context or held)
    return {
        "pairs": len(contrasts_of(inputs, config)),
        "answers": len(answers),
        "held_out_answers": 2 * held,
        "task_answers": 2 * sum(len(task.prompts) for task in found),
    }


def _published(config: RunConfig, recipe: Recipe) -> dict[str, int]:
    """Counts from the published numbers of rows: about, for not every row makes a prompt."""
    rows = {use: file.rows for file in recipe.files for use in file.use}
    users = {use: file.users or file.rows for file in recipe.files for use in file.use}
    options, tested = config.eval, rows.get("task", 0)
    task_answers = 2 * (min(tested, options.task_limit) if options.task_limit else tested)
    prompts = rows["prompts"]
    if config.data.objective == "prompt":
        prompts = min(prompts, config.data.prompt_limit or prompts)
        held = round(prompts * config.data.held_out_prompts)
        pairs = answers = prompts - held
    else:
        people = users["contexts"]
        each = prompts / people
        limit = config.generate.prompts_per_context
        each = min(each, PROMPTS_PER_CONTEXT if limit < 0 else limit or each)
        people = min(people, config.data.user_limit or people)
        apart = round(people * config.data.held_out_users)
        pairs = round((people - apart) * each)
        answers = 2 * pairs  # a user's own prompts are asked of somebody else, or of nobody, too
        if config.generate.negatives != "missing":
            pairs = answers
        held = min(apart, options.eval_contexts or apart) * options.eval_prompts_per_context
    return {
        "pairs": pairs,
        "answers": answers,
        "held_out_answers": 2 * held,
        "task_answers": task_answers,
    }


def _machine(config: RunConfig, download: Download | None) -> dict[str, Any]:
    """Memory and time of training, as ``mipo doctor`` has them, or why they cannot be had."""
    try:
        return doctor.fits(config, download=download)
    except MipoError as error:
        return {"not_predicted": error.message}


def dry_run(cell: Cell, *, download: Download | None = None) -> dict[str, Any]:
    """Options with their origins, downloads, cost in answers and tokens, memory and time.

    Args:
        cell: the recipe as it would be run.
        download: in place of ``huggingface_hub.snapshot_download``.

    Raises:
        MipoError: data that are on this machine cannot be used, or the model is neither a folder
            nor an id.
    """
    config = cell.config
    here = all(map(_here, _places(config)))
    if here:
        cost = _measured(config, read_inputs(config.data))
        training = _machine(config, download)
    else:
        cost = _published(config, cell.recipe)
        training = {"not_predicted": "the data set is not on this machine yet"}
    tokens = config.generate.max_tokens * (cost["answers"] + cost["held_out_answers"])
    tokens += config.eval.task_max_tokens * cost["task_answers"]
    sections = (config.data, config.generate, config.train, config.eval)
    values = {name: value for part in sections for name, value in vars(part).items()}
    return {
        "cell": cell.name,
        "run": str(cell.run),
        "notes": list(cell.notes),
        "model": config.data.model,
        "smaller": cell.model.smaller if cell.model else None,
        "options": {
            name: {"value": values[name], "origin": told} for name, told in cell.origins.items()
        },
        "stated": [f"{item.text} [{item.origin}]" for item in cell.recipe.stated],
        "unknown": [item.text for item in cell.recipe.unknown],
        "chosen": [f"{item.text} {item.why}" for item in cell.recipe.chosen],
        "reported": [f"{item.text} [{item.origin}]" for item in cell.reported],
        "downloads": _downloads(cell),
        "counted_from": "the data" if here else "published numbers of rows, about",
        "cost": {**cost, "response_tokens_at_most": tokens},
        "training": training,
    }
