"""Answers of a run: each of the grid is sampled once, by key, and serves wherever it is needed."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from mipo_mlx.config import GenerateConfig
from mipo_mlx.data.grid import Cell, Grid
from mipo_mlx.data.pairs import ANSWER_REASONS, drop_reason
from mipo_mlx.errors import DataError
from mipo_mlx.grading.text import strip_thinking
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.reference import group_of
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.memory import limit_bytes
from mipo_mlx.types import Context, Progress, Prompt, Response


class AnswerJournal(Protocol):
    """Keeps answers as they are sampled, so that an interrupted run goes on where it was."""

    def read(self) -> Iterable[tuple[str, Response]]:
        """Answers of an earlier run with the same inputs."""

    def append(self, key: str, response: Response) -> None:
        """Keep one more."""


class Ask(NamedTuple):
    """One answer that is wanted; ``sample`` tells apart several to the same prompt."""

    context: Context | None
    prompt: Prompt
    sample: int = 0

    @property
    def key(self) -> str:
        return answer_key(self.context.id if self.context else "", self.prompt.id, self.sample)


def answer_key(context_id: str, prompt_id: str, sample: int = 0) -> str:
    """Key of one sampled answer; the text depends on the seed and this key alone."""
    return f"{context_id}\x1f{prompt_id}" + (f"\x1f{sample}" if sample else "")


def wrapper_of(config: GenerateConfig) -> chat_template.Wrapper:
    """What stands around a context and after a request in this run."""
    return chat_template.Wrapper.of(config.context_template, config.answer_style)


def encode(
    lm: LanguageModel, context: Context | None, prompt: Prompt, config: GenerateConfig
) -> tuple[int, ...]:
    """Token ids of context and prompt in the model's chat template, checked against its window.

    Raises:
        DataError: prompt and answer together do not fit the model's window.
    """
    messages = chat_template.messages(context, prompt, wrapper_of(config))
    ids = chat_template.prompt_ids(lm.tokenizer, messages, enable_thinking=config.enable_thinking)
    if lm.max_tokens is not None and len(ids) + config.max_tokens > lm.max_tokens:
        where = (context.source if context else "") or prompt.source or "input"
        who = f"context {context.id!r} with " if context else ""
        raise DataError(
            f"{where}: {who}prompt {prompt.id!r} takes {len(ids)} tokens, and {config.max_tokens} "
            f"for the answer make more than the model's window of {lm.max_tokens} tokens.",
            "shorten the context, or lower --max-tokens",
        )
    return ids


def sample(
    lm: LanguageModel,
    wanted: Iterable[Ask],
    config: GenerateConfig,
    seed: int,
    on_progress: Progress,
    stage: str = "sample answers",
    journal: AnswerJournal | None = None,
    tally: Tally | None = None,
    contrast: float = 0.0,
) -> dict[str, Response]:
    """Sample one answer for each distinct key of ``wanted``.

    ``journal`` gives answers sampled before and is told every new one; ``tally`` counts tokens;
    ``contrast`` is a of context-aware decoding, against the prompt without its context.
    """
    jobs: dict[str, Job] = {}
    for ask in wanted:
        if ask.key not in jobs:
            group = group_of(ask.context.id if ask.context else "")
            ids = encode(lm, ask.context, ask.prompt, config)
            without = encode(lm, None, ask.prompt, config) if contrast else ()
            jobs[ask.key] = Job(ask.key, ids, group, without)
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        min_p=config.min_p,
        max_tokens=config.max_tokens,
        seed=seed,
        batch_size=config.generate_batch_size,
        memory_limit=limit_bytes(config.memory_limit),
        contrast=contrast,
    )
    answers = {key: known for key, known in journal.read() if key in jobs} if journal else {}
    total = len(jobs)
    on_progress(stage, len(answers), total)
    for key in answers:
        del jobs[key]
    answering = respond(lm, list(jobs.values()), sampling, tally)
    del jobs  # each prompt's tokens go when it is answered
    for key, response in answering:
        answers[key] = response
        if journal:
            journal.append(key, response)
        on_progress(stage, len(answers), total)
    return answers


def without_thoughts(answer: Response) -> Response:
    """The answer without its whole ``<think>`` blocks; a block without end or start stays."""
    text = strip_thinking(answer.text)
    return answer if text == answer.text else replace(answer, text=text, token_ids=())


def cut_contexts(
    lm: LanguageModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    config: GenerateConfig,
) -> tuple[list[Context], int]:
    """Contexts cut to ``max_prompt_tokens``, and how many were cut.

    Words go from the start, the old end of notes that grow at their end; a context is cut once, for
    the longest prompt, so that all its prompts still share it. Prompts are never cut.

    Raises:
        DataError: a prompt alone takes more than ``max_prompt_tokens``.
    """
    limit = config.max_prompt_tokens
    if not limit or not prompts:
        return list(contexts), 0
    longest = max(prompts, key=lambda prompt: len(lm.tokenizer.encode(prompt.text)))

    def size(context: Context | None) -> int:
        messages = chat_template.messages(context, longest, wrapper_of(config))
        thinking = config.enable_thinking
        return len(chat_template.prompt_ids(lm.tokenizer, messages, enable_thinking=thinking))

    made, cut = [], 0
    for context in contexts:
        if size(context) > limit:
            cut += 1
            starts = [match.start() for match in re.finditer(r"\S+", context.text)]
            index = bisect.bisect_left(
                starts, True, key=lambda at: size(replace(context, text=context.text[at:])) <= limit
            )
            if index == len(starts):
                raise DataError(
                    f"{longest.source or longest.id}: prompt {longest.id!r} leaves no room for a "
                    f"context within {limit} tokens.",
                    "raise --max-prompt-tokens, or shorten the prompt",
                )
            context = replace(context, text=context.text[starts[index] :])
        made.append(context)
    return made, cut


def asks(grid: Grid) -> list[Ask]:
    """The answers of a grid, as requests."""
    by_context = {context.id: context for context in grid.contexts}
    by_prompt = {prompt.id: prompt for prompt in grid.prompts}
    return [
        Ask(by_context.get(cell.context_id), by_prompt[cell.prompt_id], cell.sample)
        for cell in grid.cells
    ]


def usable(
    grid: Grid, answers: Mapping[str, Response], config: GenerateConfig
) -> tuple[dict[Cell, Response], dict[str, int]]:
    """Answers by cell that can be trained on, and counts of the others by reason."""
    counts = dict.fromkeys(ANSWER_REASONS, 0)
    texts = {prompt.id: prompt.text for prompt in grid.prompts}
    kept = {}
    for cell in grid.cells:
        answer = answers[answer_key(*cell)]
        answer = answer if config.keep_thinking else without_thoughts(answer)
        reason = drop_reason(
            texts[cell.prompt_id],
            answer,
            same_language=config.same_language,
            drop_truncated=config.drop_truncated,
        )
        if reason:
            counts[reason] += 1
        else:
            kept[cell] = answer
    return kept, counts
