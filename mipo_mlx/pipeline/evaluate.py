"""Base against adapter, from files to files: what ``mipo eval`` reads, keeps and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mipo_mlx.config import RunConfig, text_settings
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.data.split import overlap
from mipo_mlx.errors import ConfigError
from mipo_mlx.evaluation import benchmarks as tasking
from mipo_mlx.evaluation import context_aware_decoding, diversity, retention
from mipo_mlx.evaluation import llm_judge as judging
from mipo_mlx.evaluation import metrics as evaluation
from mipo_mlx.evaluation.comparison import STATISTICS, compare
from mipo_mlx.evaluation.memorization import memorize
from mipo_mlx.evaluation.questions import (
    Group,
    Questions,
    context_groups,
    known_values,
    prompt_groups,
)
from mipo_mlx.evaluation.study import Study, Subject
from mipo_mlx.generation.answers import cut_contexts, wrapper_of
from mipo_mlx.generation.inputs import Inputs, read_inputs
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.models import lora
from mipo_mlx.models.compiler import uncompiled_on_cpu
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.memory import allocator_within, measured
from mipo_mlx.reporting.narrative import section
from mipo_mlx.results import SIDES, EvalResult, Json, Section
from mipo_mlx.run_dir.journal import AnswerFile
from mipo_mlx.run_dir.lock import writing
from mipo_mlx.run_dir.store import RunStore, file_hash
from mipo_mlx.types import Context, Progress, Response, silent

# in the order in which they are measured and told; the judge is last, for the model goes before it
STUDIES = (
    *(context_aware_decoding.prepare, retention.prepare, diversity.prepare),
    *(tasking.prepare, memorize.prepare, judging.prepare),
)


def _groups(inputs: Inputs, config: RunConfig) -> list[Group]:
    """Groups of conditions that are each other's wrong ones."""
    if config.data.objective == "prompt":
        if len(inputs.held_prompts) < 2:
            raise ConfigError("eval needs at least two held-out prompts.", "add prompts")
        return prompt_groups(inputs.held_prompts, config.eval)
    if not inputs.held_prompts:
        raise ConfigError(
            "eval has no prompts: those of the held-out users are none.",
            "add prompts that belong to nobody, or hold out more users (--held-out-users)",
        )
    return context_groups(inputs.held_contexts, inputs.held_prompts, config.eval, inputs.eval_foils)


def _check_adapter(lm: LanguageModel, folder: Path, config: RunConfig) -> None:
    about = json.loads((folder / lora.CONFIG).read_text(encoding="utf-8"))
    maker = about.get("fingerprint")
    if maker not in (None, lm.fingerprint):
        raise ConfigError(
            f"{folder}: this adapter was trained on another model than {lm.name}.",
            "give eval the --model of training",
        )
    for name in ("context_template", "answer_style"):
        trained, now = about.get("mipo", {}).get(name), getattr(config.generate, name)
        if trained not in (None, now):
            raise ConfigError(
                f"{folder}: this adapter was trained with {name} {trained!r}, not {now!r}.",
                f"give eval the --{name.replace('_', '-')} of training",
            )


def _overlap(
    run: Path, config: RunConfig, inputs: Inputs, cut: Sequence[Context] = ()
) -> dict[str, tuple[int, int]]:
    """How many of the users and prompts to be asked were trained on, and how many there are.

    ``cut`` are the held-out contexts as the model reads them. Empty where the pairs are not there.

    Raises:
        ConfigError: what is called held out was trained on, and that was not asked for.
    """
    path = Path(config.train.pairs) if config.train.pairs else run / "pairs.jsonl"
    if not path.is_file():
        return {}
    wrapper = wrapper_of(config.generate)
    trained = {wrapper.unwrapped(m) for pair in read_pairs(path) for m in pair.messages}
    found = {}
    for kind, held in (
        ("users", cut or inputs.held_contexts),
        ("prompts", inputs.held_prompts),
    ):
        if not held:
            continue
        seen = overlap([item.text for item in held], trained)
        found[kind] = len(seen), len(held)
        if kind in inputs.held_out and seen and not config.eval.allow_overlap:
            raise ConfigError(
                f"{len(seen)} of {len(held)} held-out {kind} were trained on, "
                f"{held[seen[0]].id!r} among them.",
                f"give eval the data options that {path} was made with, leave copies out of the "
                "data, or --allow-overlap to evaluate on them",
            )
    return found


def _held_out(overlap: Mapping[str, tuple[int, int]], split: str) -> str:
    """What is new to the adapter: as the pairs say, or where there are none as the split does."""
    parts = [kind for kind, (seen, _) in overlap.items() if not seen]
    return (" and ".join(parts) or "nothing") if overlap else split


def _key(
    lm: LanguageModel, weights: Path, inputs: Inputs, config: RunConfig, studies: Sequence[Study]
) -> Json:
    """What an evaluation depends on."""
    return {
        "model": lm.fingerprint,
        "adapter": file_hash(weights),
        "data": inputs.digest,
        "seed": config.data.seed,
        "generate": text_settings(config),
        "eval": asdict(config.eval),
        "statistics": STATISTICS,
        **{study.name: study.digest for study in studies},
    }


SAMPLED = "sampled"  # what files of main answers are called


class _Keeper:
    """Journals of sampled answers, a stage each.

    Those of studies are for one set of inputs, and go with the evaluation's end. The main answers
    depend on less, and stay: an evaluation with other studies finds them, and one of another
    adapter those of the base.
    """

    def __init__(self, store: RunStore, key: Json) -> None:
        self.store, self.key = store, key
        self.files: list[AnswerFile] = []
        self.lasting: list[AnswerFile] = []

    def __call__(self, stage: str) -> AnswerFile:
        self.files.append(AnswerFile(self.store, {**self.key, "stage": stage}))
        return self.files[-1]

    def main(self, side: str) -> AnswerFile:
        """Of a side's answers to what everybody is asked."""
        names = ("model", "data", "seed", "generate", *(("adapter",) if side == "adapter" else ()))
        key = {name: self.key[name] for name in names}
        self.lasting.append(AnswerFile(self.store, {**key, "side": side}, name=SAMPLED))
        return self.lasting[-1]

    def remove(self) -> None:
        """Take away what this evaluation alone needed, and main answers of other ones."""
        for file in self.files:
            file.journal.remove()
        known = {file.journal.path for file in self.lasting}
        for path in self.store.path.glob(f"{SAMPLED}-*.jsonl"):
            if path not in known:
                path.unlink(missing_ok=True)


def _measure(
    subject: Subject, studies: Sequence[Study], keeper: _Keeper
) -> tuple[EvalResult, dict[str, Sequence[Json]]]:
    """The result, and rows of the JSONL files beside it, by name."""
    columns: dict[str, evaluation.Columns] = {}
    answers: dict[str, dict[str, Response]] = {}
    items, options = subject.items, subject.config
    for side in SIDES:
        with subject.side(side) as lm:
            columns[side], answers[side] = evaluation.measure(
                lm, subject.asked, side, keeper.main(side)
            )
    base, adapter = (columns[side] for side in SIDES)
    metrics = compare(
        base, adapter, items, resamples=options.eval.resamples, seed=options.data.seed
    )
    subject = replace(subject, columns=columns, answers=answers)
    sections: dict[str, Section] = {}
    files: dict[str, Sequence[Json]] = {
        "answers.jsonl": evaluation.answer_rows(items, answers["base"], answers["adapter"])
    }
    for study in studies:
        found = study.measure(subject)
        metrics |= found.metrics
        sections[study.name] = section(found.findings, found.metrics, found.details)
        files |= found.files
    changed, examples = evaluation.examples(items, answers["base"], answers["adapter"])
    return EvalResult(
        metrics=metrics,
        sections=sections,
        changed=changed,
        answers=len(items),
        examples=examples,
        items=evaluation.values(base, adapter),
    ), files


def prepare_studies(run: Path, config: RunConfig, inputs: Inputs) -> list[Study]:
    """The studies that were asked for; their faults are told before anything is measured."""
    found = [prepare(run, config, inputs) for prepare in STUDIES]
    return [study for study in found if study]


def _subject(
    lm: LanguageModel, inputs: Inputs, config: RunConfig, keeper: _Keeper, on_progress: Progress
) -> Subject:
    known = known_values(inputs.train_contexts + inputs.held_contexts)
    asked = Questions(
        _groups(inputs, config), known, config.generate, config.data.seed + 1, on_progress
    )
    return Subject(lm, config, inputs, asked, {}, {}, keeper)


@writing("eval")
@uncompiled_on_cpu()
def evaluate(run: Path, config: RunConfig, on_progress: Progress = silent) -> EvalResult:
    """Compare base and adapter on held-out users and prompts.

    Writes ``eval.json``, and ``answers.jsonl`` with both answers to everything asked.
    """
    folder = run / "adapter"
    weights = folder / "adapters.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{folder}: no adapter to evaluate.", f"run 'mipo train {run}' first")
    inputs = read_inputs(config.data)
    studies = prepare_studies(run, config, inputs)
    _groups(inputs, config)  # faults are told before a model is loaded
    seen = _overlap(run, config, inputs)
    lm = open_model(config.data.model, adapter_path=folder, offline=config.data.offline)
    _check_adapter(lm, folder, config)
    for study in studies:
        study.check(lm)
    held = [inputs.held_contexts, inputs.eval_foils]
    cut = [cut_contexts(lm, part, inputs.held_prompts, config.generate)[0] for part in held]
    key = _key(lm, weights, inputs, config, studies)
    if cut[0] != inputs.held_contexts:  # training saw them cut as well
        seen = _overlap(run, config, inputs, cut[0])
    inputs = replace(inputs, held_contexts=cut[0], eval_foils=cut[1])
    store = RunStore(run)
    if store.is_fresh("eval", key) and (run / "answers.jsonl").is_file():
        return EvalResult.from_json(json.loads((run / "eval.json").read_text(encoding="utf-8")))
    stats: Json = {}
    keeper = _Keeper(store, key)
    with allocator_within(config.generate.memory_limit), measured(stats):
        result, files = _measure(_subject(lm, inputs, config, keeper, on_progress), studies, keeper)
    result = replace(result, overlap=seen, held_out=_held_out(seen, inputs.held_out))
    store.write_json("eval.json", result.to_json())
    for name, rows in files.items():
        store.write_jsonl(name, rows)
    store.record("eval", key, ["eval.json", *files], stats)
    keeper.remove()
    return result
