"""Where files meet maths: each step is a function from the files before it to the files after it.

``generate`` -> ``pairs.jsonl`` -> ``train`` -> ``adapter/`` -> ``evaluate`` -> ``eval.json`` ->
``report`` -> ``report.json``, ``report.html``. A step whose inputs are unchanged is not computed
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mipo_mlx import evaluate as evaluation
from mipo_mlx import evidence, fit, page
from mipo_mlx import report as reporting
from mipo_mlx import tasks as tasking
from mipo_mlx.compare import STATISTICS, compare
from mipo_mlx.config import RunConfig, read_toml, to_toml
from mipo_mlx.data.pairs import pair_row
from mipo_mlx.data.read import read_pairs
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.generate import cut_contexts
from mipo_mlx.generate import generate as make_pairs
from mipo_mlx.inputs import Inputs, read_inputs
from mipo_mlx.lm import adapter
from mipo_mlx.lm.load import LanguageModel, load_model
from mipo_mlx.lm.memory import measured
from mipo_mlx.pairing import describe, final_contrasts, prepare
from mipo_mlx.reference import Progress
from mipo_mlx.store import Journal, RunStore, file_hash
from mipo_mlx.types import Response

Summary = dict[str, Any]


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def saved_config(run: Path) -> dict[str, Any] | None:
    """Flat options of an earlier step of this run, or None for a fresh directory."""
    path = run / "config.toml"
    return read_toml(path) if path.is_file() else None


def _text_settings(config: RunConfig) -> dict[str, Any]:
    """Options of sampling that have a say in what is written."""
    settings = asdict(config.generate)
    for name in ("generate_batch_size", "memory_limit"):
        settings.pop(name)
    return settings


class _Answers:
    """The journal of ``generate``: answers as rows of a checked file, one file for each input.

    The run's options are written with its first answer, so that the same command without them goes
    on with them.
    """

    def __init__(self, store: RunStore, key: Mapping[str, Any], config: RunConfig) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.store, self.config = store, config
        self.journal = Journal(store, f"answers-{digest[:12]}.jsonl", key)

    def read(self) -> Iterator[tuple[str, Response]]:
        self.store.write_text("config.toml", to_toml(self.config))
        for row in self.journal.read():
            yield row["key"], Response(row["text"], tuple(row["token_ids"]), row["finish_reason"])

    def append(self, key: str, response: Response) -> None:
        self.journal.append({"key": key, **asdict(response)})


def generate(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Make ``pairs.jsonl``. Nothing is written before all inputs have been read and checked."""
    work = prepare(config)
    key = {
        "model": work.lm.fingerprint,
        "data": work.inputs.digest,
        "objective": config.data.objective,
        "seed": config.data.seed,
        **_text_settings(config),
    }
    store = RunStore(run)
    if store.is_fresh("generate", key):
        return {"unchanged": True, **store.stats("generate")}
    stats: Summary = {}
    answers = _Answers(store, key, config)
    with measured(stats):
        made = make_pairs(
            work.lm,
            work.everybody,
            work.inputs.train_prompts,
            final_contrasts(work, config, on_progress, answers),
            config.generate,
            seed=config.data.seed,
            on_progress=on_progress,
            journal=answers,
        )
    stats.update(describe(made, work), contexts_cut=work.cut)
    stats["tokens_per_second"] = round(made.tokens / max(stats["seconds"], 1e-9), 1)
    store.write_jsonl("pairs.jsonl", [pair_row(pair) for pair in made.pairs])
    store.record("generate", key, ["pairs.jsonl"], stats)
    answers.journal.remove()
    return stats


def train(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Train ``adapter/`` on the run's pairs or on ``--pairs``; ``metrics.jsonl`` a line a step."""
    return fit.train(run, config, on_progress)


def _groups(inputs: Inputs, config: RunConfig) -> list[evaluation.Group]:
    """Groups of conditions that are each other's wrong ones."""
    if config.data.objective == "prompt":
        if len(inputs.held_prompts) < 2:
            raise ConfigError("eval needs at least two held-out prompts.", "add prompts")
        return evaluation.prompt_groups(inputs.held_prompts, config.eval)
    if not inputs.held_prompts:
        raise ConfigError(
            "eval has no prompts: those of the held-out users are none.",
            "add prompts that belong to nobody, or hold out more users (--held-out-users)",
        )
    return evaluation.context_groups(
        inputs.held_contexts, inputs.held_prompts, config.eval, inputs.eval_foils
    )


def _check_adapter(lm: LanguageModel, folder: Path) -> None:
    maker = json.loads((folder / adapter.CONFIG).read_text(encoding="utf-8")).get("fingerprint")
    if maker not in (None, lm.fingerprint):
        raise ConfigError(
            f"{folder}: this adapter was trained on another model than {lm.name}.",
            "give eval the --model of training",
        )


def _check_held_out(run: Path, inputs: Inputs, problems: Sequence[tasking.Task] = ()) -> None:
    """What is called held out, and problems of ``--tasks``, must not stand in the run's pairs."""
    path = run / "pairs.jsonl"
    if not path.is_file():
        return
    trained = {message["content"] for pair in read_pairs(path) for message in pair.messages}
    for kind, held in (("users", inputs.held_contexts), ("prompts", inputs.held_prompts)):
        seen = [item for item in held if item.text in trained]
        if kind in inputs.held_out and seen:
            raise ConfigError(
                f"{len(seen)} of {len(held)} held-out {kind} were trained on, {seen[0].id!r} "
                "among them.",
                f"give eval the data options that {path} was made with",
            )
    for task in problems:
        seen = [prompt for prompt in task.prompts if prompt.text in trained]
        if seen:
            raise ConfigError(
                f"{len(seen)} of {len(task.prompts)} problems of task {task.name!r} were trained "
                f"on, {seen[0].source} among them.",
                "give --tasks a split that was not trained on",
            )


def _on_tasks(
    lm: LanguageModel, problems: Sequence[tasking.Task], config: RunConfig, on_progress: Progress
) -> tuple[Summary, Summary]:
    """Metrics of ``--tasks`` as ``tasks/NAME/FIGURE``, and what they were taken from, by name."""
    metrics: Summary = {}
    details: Summary = {}
    for task in problems:
        common: Summary = {"max_tokens": config.eval.task_max_tokens, "on_progress": on_progress}
        with adapter.adapter_disabled(lm):
            base = tasking.measure(lm, task, config.generate, **common, who="base")
        tuned = tasking.measure(lm, task, config.generate, **common, who="adapter")
        figures = tasking.compare(
            base, tuned, resamples=config.eval.resamples, seed=config.data.seed
        )
        metrics.update({f"tasks/{task.name}/{name}": row for name, row in figures.items()})
        details[task.name] = tasking.result(task, config.eval.task_prompts, base, tuned)
    return metrics, details


def evaluate(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Compare base and adapter on held-out users and prompts; writes ``eval.json``."""
    folder = run / "adapter"
    weights = folder / "adapters.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{folder}: no adapter to evaluate.", f"run 'mipo train {run}' first")
    inputs = read_inputs(config.data)
    problems = tasking.read_tasks(config.eval, seed=config.data.seed, offline=config.data.offline)
    _groups(inputs, config)  # faults are told before a model is loaded
    _check_held_out(run, inputs, problems)
    lm = load_model(config.data.model, adapter_path=folder, offline=config.data.offline)
    _check_adapter(lm, folder)
    tasking.check_window(lm, problems, config.generate, config.eval.task_max_tokens)
    held = [inputs.held_contexts, inputs.eval_foils]
    cut = [cut_contexts(lm, part, inputs.held_prompts, config.generate)[0] for part in held]
    groups = _groups(replace(inputs, held_contexts=cut[0], eval_foils=cut[1]), config)
    key = {
        "model": lm.fingerprint,
        "adapter": file_hash(weights),
        "data": inputs.digest,
        "seed": config.data.seed,
        "generate": _text_settings(config),
        "eval": asdict(config.eval),
        "statistics": STATISTICS,
        "tasks": tasking.digest(problems),
    }
    store = RunStore(run)
    if store.is_fresh("eval", key):
        results: Summary = json.loads((run / "eval.json").read_text(encoding="utf-8"))
        return results
    known = evaluation.known_values(inputs.train_contexts + inputs.held_contexts)
    stats: Summary = {}
    with measured(stats):
        common: Summary = {"seed": config.data.seed + 1, "on_progress": on_progress}
        args = (lm, groups, known, config.generate)
        with adapter.adapter_disabled(lm):
            base, base_answers = evaluation.measure(*args, **common, who="base")
        tuned, tuned_answers = evaluation.measure(*args, **common, who="adapter")
        items = [item for group in groups for item in group.items]
        metrics = compare(
            base, tuned, items, resamples=config.eval.resamples, seed=config.data.seed
        )
        more, details = _on_tasks(lm, problems, config, on_progress)
    results = {
        "schema": 1,
        "metrics": {**metrics, **more},
        "held_out": inputs.held_out,
        "tasks": details,
        **evaluation.examples(items, base_answers, tuned_answers),
        "items": evaluation.values(base, tuned),
    }
    store.write_json("eval.json", results)
    store.record("eval", key, ["eval.json"], stats)
    return results


def _rows(path: Path, step: str) -> Iterator[dict[str, Any]]:
    """Rows of a step's JSONL, none where it was not written."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield dict(json.loads(line))
            except (TypeError, ValueError) as error:
                raise MipoError(
                    f"{path}:{number}: not what 'mipo {step}' wrote.",
                    f"run 'mipo {step}' again, or take the file away",
                ) from error


def _pair_tokens(run: Path) -> Iterator[tuple[int, int]]:
    """Lengths of the chosen and the rejected answer of each pair that this run made."""
    for row in _rows(run / "pairs.jsonl", "generate"):
        yield int(row.get("chosen_length", 0)), int(row.get("rejected_length", 0))


def report(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """Summarise ``eval.json`` as ``report.json``, ``report.md`` and ``report.html``."""
    path = run / "eval.json"
    if not path.is_file():
        raise ConfigError(f"{path}: nothing to report.", f"run 'mipo eval {run}' first")
    store = RunStore(run)
    done = store.manifest()["steps"]
    training = list(_rows(run / "metrics.jsonl", "train"))
    pairs = [] if config.train.pairs else list(_pair_tokens(run))
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        steps = {name: step["stats"] for name, step in done.items()}
        summary = reporting.summarise(results, steps)
        text = reporting.markdown(summary)
        summary["plots"] = evidence.plots(results, training, pairs)
        summary["provenance"] = evidence.provenance(done, config)
        summary["limits"] = evidence.limits(summary, config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MipoError(
            f"{path}: not a result of 'mipo eval'.", f"run 'mipo eval {run}' again"
        ) from error
    summary["run"] = str(run)
    summary["seconds"] = round(sum(step.get("seconds", 0.0) for step in steps.values()), 2)
    peaks = [step.get("peak_memory_bytes", 0) for step in steps.values()]
    summary["peak_memory_bytes"] = max(peaks, default=0)
    store.write_json("report.json", summary)
    store.write_text("report.md", text)
    store.write_text("report.html", page.render(summary))
    return summary


def run(run: Path, config: RunConfig, on_progress: Progress = silent) -> Summary:
    """All four steps; steps already done with the same inputs are skipped."""
    tasking.read_tasks(config.eval, seed=config.data.seed, offline=config.data.offline)
    if not config.train.pairs:
        generate(run, config, on_progress)
    train(run, config, on_progress)
    evaluate(run, config, on_progress)
    return report(run, config, on_progress)
