"""From inputs and options to the grid of a run, with the model that will answer it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mipo_mlx.config import RunConfig
from mipo_mlx.data.blocks import draw
from mipo_mlx.data.grid import Grid, Rules, lay_out
from mipo_mlx.data.negatives import Contrast
from mipo_mlx.data.pairs import length_summary
from mipo_mlx.generation.answers import AnswerJournal, cut_contexts, wrapper_of
from mipo_mlx.generation.hard_negatives import nearest_users
from mipo_mlx.generation.inputs import Inputs, read_inputs
from mipo_mlx.generation.pairs import Generated
from mipo_mlx.inference.compat_check import open_model
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import Context, Progress

log = logging.getLogger("mipo_mlx")
PROMPTS_PER_CONTEXT = 8  # where there are two users or more, unless told otherwise
LENGTH_WARNING = 1.2  # ratio of mean lengths of chosen and rejected answers
TEAM = 4  # users of a block, unless told otherwise
MUCH_USED, LITTLE_USED = 0.85, 0.1  # shares of pairs between which there is something to learn


@dataclass(frozen=True)
class Prepared:
    """What is read and checked before anything is sampled.

    Attributes:
        inputs: as read.
        lm: the model.
        rules: of asking and pairing.
        grid: answers to sample; random teams stand in for near users until these are known.
        contexts: of training, cut to the options' length.
        foils: invented users who stand in for others, cut likewise.
        cut: how many of ``contexts`` were cut.
    """

    inputs: Inputs
    lm: LanguageModel
    rules: Rules
    grid: Grid
    contexts: list[Context]
    foils: list[Context]
    cut: int


def rules_of(inputs: Inputs, config: RunConfig) -> Rules:
    """How answers are asked for and paired; a block makes one step where nothing else is said."""
    options, train = config.generate, config.train
    each = options.prompts_per_context
    if each < 0:
        single = len({context.owner for context in inputs.train_contexts}) < 2
        each = 0 if single else PROMPTS_PER_CONTEXT
    k = options.num_negatives
    users = options.block_users or max(TEAM, k + 1)
    step = train.batch_size * train.gradient_accumulation_steps
    rows = users if train.loss == "mipo" else users * k  # a row holds all negatives of an answer
    return Rules(
        objective=config.data.objective,
        negatives=options.negatives,
        num_negatives=k,
        missing_share=options.missing_share,
        prompts_per_context=each,
        samples=options.samples_per_prompt,
        users=users,
        prompts=options.block_prompts or max(1, step // rows),
        length_ratio=options.length_ratio,
        seed=config.data.seed,
    )


def grid_of(inputs: Inputs, rules: Rules, near: Mapping[str, Sequence[str]] | None = None) -> Grid:
    """The answers of a run; teams of hard negatives need ``near``."""
    users = [] if rules.objective == "prompt" else inputs.train_contexts
    return lay_out(users, inputs.foils, inputs.train_prompts, rules, near)


def contrasts_of(inputs: Inputs, config: RunConfig) -> list[Contrast]:
    """The pairs of a run, if every answer can be used and hard negatives are random ones."""
    rules = rules_of(inputs, config)
    return draw(grid_of(inputs, rules), rules).contrasts


def prepare(config: RunConfig) -> Prepared:
    """Read and check all inputs, then open the model.

    Raises:
        ConfigError: the context's template holds no place for a context.
        DataError: a file cannot be used, or holds too little to contrast.
        ModelError: the model cannot be found or opened.
    """
    wrapper_of(config.generate)
    inputs = read_inputs(config.data)
    rules = rules_of(inputs, config)
    grid_of(inputs, rules)  # faults are told before a model is loaded
    lm = open_model(config.data.model, offline=config.data.offline)
    contexts, cut = cut_contexts(lm, inputs.train_contexts, inputs.train_prompts, config.generate)
    foils, _ = cut_contexts(lm, inputs.foils, inputs.train_prompts, config.generate)
    as_read = replace(inputs, train_contexts=contexts, foils=foils)
    return Prepared(inputs, lm, rules, grid_of(as_read, rules), contexts, foils, cut)


def final_grid(
    work: Prepared, config: RunConfig, on_progress: Progress, journal: AnswerJournal | None = None
) -> Grid:
    """The grid, near users found where hard negatives are asked for."""
    if config.generate.negatives != "hard" or config.data.objective == "prompt":
        return work.grid
    near = nearest_users(
        work.lm,
        work.contexts,
        work.inputs.train_prompts,
        config.generate,
        seed=config.data.seed,
        on_progress=on_progress,
        journal=journal,
        foils=work.foils,
    )
    return lay_out(work.contexts, work.foils, work.inputs.train_prompts, work.rules, near)


def headroom(pmi: Mapping[str, float], among: str) -> str:
    """How much there is to learn, in a sentence, and what to do about it.

    ``among`` is whose answers the rejected ones are, in words.
    """
    used = pmi["context_used"]
    found = (
        f"on {used:.0%} of {pmi['pairs']:.0f} pairs the model's own answer is at least twice as "
        f"likely as {among}"
    )
    if used > MUCH_USED:
        return f"{found}: little is left to learn; harder negatives (--negatives hard) leave more."
    if used < LITTLE_USED:
        return (
            f"{found}: it hardly uses what it is told; try another --context-template, longer "
            "contexts or a larger model before training."
        )
    return f"{found}: there is something to learn; train."


def describe(made: Generated, work: Prepared) -> dict[str, Any]:
    """What the summary says of the pairs."""
    lengths = length_summary(made.pairs)
    blocks = {pair.block for pair in made.pairs}
    stats: dict[str, Any] = {
        "pairs": len(made.pairs),
        "blocks": len(blocks),
        "block": f"{work.rules.users} x {work.rules.prompts}",
        "dropped": made.dropped,
        "responses": made.responses,
        "response_tokens": made.tokens,
        "truncated": made.truncated,
        "lengths": lengths,
        "pmi": made.pmi,
        "prompt_tokens": made.prompt_tokens,
    }
    used_foils = {pair.negative_context_id for pair in made.pairs} & {f.id for f in work.foils}
    if used_foils:
        stats["foils"] = (
            f"one user given: {len(used_foils)} invented users are asked as well, so that answers "
            "have others to stand against"
        )
    if made.pmi:
        stats["headroom"] = headroom(made.pmi, _among(work.rules))
    if not 1 / LENGTH_WARNING <= lengths["ratio"] <= LENGTH_WARNING:
        stats["warning"] = (
            f"Chosen answers are {lengths['ratio']:.2f} times as long as rejected ones: training "
            "may teach length; --match-lengths evens them out."
        )
    return stats


def _among(rules: Rules) -> str:
    if rules.objective == "prompt" or rules.negatives == "prompt":
        return "under another prompt"
    return {
        "missing": "without the context",
        "mixed": "under another user's context, or none",
    }.get(rules.negatives, "under another user's context")
