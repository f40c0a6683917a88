"""Step 1: contexts x prompts -> preference pairs with reference log-probs.

Answers come first: every cell of the grid is sampled once, what cannot be used is dropped, and
blocks of pairs are drawn from the rest (``data/blocks.py``). The rejected answer was sampled under
something else (another user's context, no context, another prompt); both answers are scored under
the right prompt and context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mipo_mlx.config import GenerateConfig
from mipo_mlx.data.blocks import draw
from mipo_mlx.data.grid import Cell, Grid, Rules
from mipo_mlx.data.negatives import Contrast
from mipo_mlx.data.pairs import filter_scored, match_lengths, pmi_summary
from mipo_mlx.errors import DataError
from mipo_mlx.generation.answers import AnswerJournal, asks, sample, usable, wrapper_of
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.reference import with_reference
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import PreferencePair, Progress, Response


@dataclass(frozen=True)
class Generated:
    """What step 1 made.

    Attributes:
        pairs: kept pairs, those of a block in a row.
        dropped: left out, by reason: answers of the grid (``data.pairs.ANSWER_REASONS``, and
            ``no_partner`` where nobody's answer could be set against one), then pairs (``length``,
            ``pmi``).
        responses: answers sampled.
        tokens: response tokens sampled.
        truncated: answers among them that were cut off.
        prompt_tokens: of the answers sampled now: ``forwarded``, ``ideal`` (each distinct prefix
            once) and ``unshared`` (each prompt whole).
        pmi: ``pmi_summary`` of all pairs, before any was dropped for it.
    """

    pairs: list[PreferencePair]
    dropped: dict[str, int]
    responses: int
    tokens: int
    truncated: int
    prompt_tokens: dict[str, int]
    pmi: dict[str, float]


class _Pairs:
    """Contrasts of a grid with their texts."""

    def __init__(self, grid: Grid, answers: Mapping[Cell, Response], config: GenerateConfig):
        self.contexts = {context.id: context for context in grid.contexts}
        self.prompts = {prompt.id: prompt for prompt in grid.prompts}
        self.answers, self.wrapper = answers, wrapper_of(config)

    def messages(self, context_id: str, prompt_id: str) -> tuple[dict[str, str], ...]:
        """What an answer is sampled and scored under."""
        context, prompt = self.contexts.get(context_id), self.prompts[prompt_id]
        return chat_template.messages(context, prompt, self.wrapper)

    def pair(self, item: Contrast) -> PreferencePair:
        """The pair of a contrast."""
        other = item.negative_prompt_id or item.prompt_id
        return PreferencePair(
            id=item.id,
            messages=self.messages(item.context_id, item.prompt_id),
            chosen=self.answers[Cell(item.context_id, item.prompt_id, item.sample)],
            rejected=self.answers[Cell(item.negative_context_id, other, item.sample)],
            context_id=item.context_id,
            prompt_id=item.prompt_id,
            negative_context_id=item.negative_context_id,
            negative_prompt_id=item.negative_prompt_id,
            block=item.block,
        )

    def negative(self, pair: PreferencePair) -> tuple[dict[str, str], ...]:
        """What the rejected answer of a pair was sampled under."""
        return self.messages(pair.negative_context_id, pair.negative_prompt_id or pair.prompt_id)


def _some_left(kept: Sequence[PreferencePair], count: int, dropped: Mapping[str, int]) -> None:
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"No pair can be made of {count} answers: {reasons}.",
            "raise --max-tokens when answers are cut off, --temperature when all say the same "
            "(no_partner); loosen --min-pmi and --length-ratio",
        )


def generate(
    lm: LanguageModel,
    grid: Grid,
    rules: Rules,
    config: GenerateConfig,
    *,
    on_progress: Progress,
    journal: AnswerJournal | None = None,
) -> Generated:
    """Sample a grid, drop bad answers, draw blocks of pairs, score the reference.

    Raises:
        DataError: an input does not fit the model's window, or no pair is left.
    """
    tally = Tally()
    said = sample(lm, asks(grid), config, rules.seed, on_progress, journal=journal, tally=tally)
    answers, dropped = usable(grid, said, config)
    drawn = draw(grid, rules, answers)
    dropped["no_partner"] = drawn.alone
    work = _Pairs(grid, answers, config)
    raw = [work.pair(item) for item in drawn.contrasts]
    _some_left(raw, len(grid.cells), dropped)
    scored = with_reference(
        lm,
        raw,
        enable_thinking=config.enable_thinking,
        on_progress=on_progress,
        negatives={pair.id: work.negative(pair) for pair in raw},
    )
    least = config.min_pmi if config.min_pmi > -1000 else None
    pairs, more = filter_scored(scored, min_pmi=least, length_ratio=config.length_ratio)
    dropped.update(more)
    if config.match_lengths:
        matched = match_lengths(pairs)
        dropped["length"] += len(pairs) - len(matched)
        pairs = matched
    _some_left(pairs, len(grid.cells), dropped)
    return Generated(
        pairs,
        dropped,
        responses=len(said),
        tokens=sum(len(answer.token_ids) for answer in said.values()),
        truncated=sum(answer.finish_reason == "length" for answer in said.values()),
        prompt_tokens=asdict(tally),
        pmi=pmi_summary(scored),
    )
