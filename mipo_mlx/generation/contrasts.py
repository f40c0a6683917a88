"""From inputs and options to the contrasts of a run, with the model that will write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mipo_mlx.config import RunConfig
from mipo_mlx.data.negatives import Contrast, contrast
from mipo_mlx.data.pairs import length_summary, pmi_summary
from mipo_mlx.generation.hard_negatives import nearest_users
from mipo_mlx.generation.inputs import Inputs, read_inputs
from mipo_mlx.generation.pairs import AnswerJournal, Generated, cut_contexts
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import Context, Progress

PROMPTS_PER_CONTEXT = 8  # where there are two users or more, unless told otherwise
LENGTH_WARNING = 1.2  # ratio of mean lengths of chosen and rejected answers


@dataclass(frozen=True)
class Prepared:
    """What is read and checked before anything is sampled.

    Attributes:
        inputs: as read.
        lm: the model.
        contrasts: pairs to make; random users stand in for hard negatives until they are known.
        contexts: of training, cut to the options' length.
        foils: invented users whose contexts are wrong ones, cut likewise.
        cut: how many of ``contexts`` were cut.
    """

    inputs: Inputs
    lm: LanguageModel
    contrasts: list[Contrast]
    contexts: list[Context]
    foils: list[Context]
    cut: int

    @property
    def everybody(self) -> list[Context]:
        """All whose contexts are put to use."""
        return self.contexts + self.foils


def contrasts_of(
    inputs: Inputs, config: RunConfig, nearest: dict[str, list[str]] | None = None
) -> list[Contrast]:
    """The pairs of a run, before any answer is written; hard negatives need ``nearest``."""
    each = config.generate.prompts_per_context
    if each < 0:
        single = len({context.owner for context in inputs.train_contexts}) < 2
        each = 0 if single else PROMPTS_PER_CONTEXT
    return contrast(
        inputs.train_contexts,
        inputs.train_prompts,
        objective=config.data.objective,
        negatives=config.generate.negatives,
        prompts_per_context=each,
        seed=config.data.seed,
        num_negatives=config.generate.num_negatives,
        missing_share=config.generate.missing_share,
        samples_per_prompt=config.generate.samples_per_prompt,
        nearest=nearest,
        foils=inputs.foils,
    )


def prepare(config: RunConfig) -> Prepared:
    """Read and check all inputs, then open the model.

    Raises:
        DataError: a file cannot be used, or holds too little to contrast.
        ModelError: the model cannot be found or opened.
    """
    inputs = read_inputs(config.data)
    contrasts = contrasts_of(inputs, config)
    lm = open_model(config.data.model, offline=config.data.offline)
    contexts, cut = cut_contexts(lm, inputs.train_contexts, inputs.train_prompts, config.generate)
    foils, _ = cut_contexts(lm, inputs.foils, inputs.train_prompts, config.generate)
    return Prepared(inputs, lm, contrasts, contexts, foils, cut)


def final_contrasts(
    work: Prepared, config: RunConfig, on_progress: Progress, journal: AnswerJournal | None = None
) -> list[Contrast]:
    """The contrasts, hard negatives found where they are asked for."""
    if config.generate.negatives != "hard" or config.data.objective == "prompt":
        return work.contrasts
    nearest = nearest_users(
        work.lm,
        work.contexts,
        work.inputs.train_prompts,
        config.generate,
        seed=config.data.seed,
        on_progress=on_progress,
        journal=journal,
        foils=work.foils,
    )
    return contrasts_of(work.inputs, config, nearest)


def describe(made: Generated, work: Prepared) -> dict[str, Any]:
    """What the summary says of the pairs."""
    lengths = length_summary(made.pairs)
    stats: dict[str, Any] = {
        "pairs": len(made.pairs),
        "dropped": made.dropped,
        "responses": made.responses,
        "response_tokens": made.tokens,
        "lengths": lengths,
        "pmi": pmi_summary(made.pairs),
        "prompt_tokens": made.prompt_tokens,
    }
    used_foils = {pair.negative_context_id for pair in made.pairs} & {f.id for f in work.foils}
    if used_foils:
        stats["foils"] = (
            f"one user given: the wrong contexts are those of {len(used_foils)} invented users"
        )
    if stats["pmi"]:
        used = stats["pmi"]["context_used"]
        stats["headroom"] = f"the model already uses its context on {used:.0%} of pairs"
    if not 1 / LENGTH_WARNING <= lengths["ratio"] <= LENGTH_WARNING:
        stats["warning"] = (
            f"Chosen answers are {lengths['ratio']:.2f} times as long as rejected ones: training "
            "may teach length; --match-lengths evens them out."
        )
    return stats
