"""Step 1: contexts x prompts -> preference pairs with reference log-probs.

The rejected answer is sampled under something else (another user's context, no context, another
prompt); both answers are scored under the right prompt and context. An answer is sampled once for
each (context, prompt) and serves wherever it is needed.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Protocol

from mipo_mlx.config import GenerateConfig
from mipo_mlx.data.negatives import Contrast
from mipo_mlx.data.pairs import filter_pairs, filter_scored, match_lengths
from mipo_mlx.errors import DataError
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.reference import group_of, with_reference
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.models.memory import limit_bytes
from mipo_mlx.types import Context, PreferencePair, Progress, Prompt, Response


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


@dataclass(frozen=True)
class Generated:
    """What step 1 made.

    Attributes:
        pairs: kept pairs, in the order of their contrasts.
        dropped: pairs left out, by reason.
        responses: answers sampled.
        tokens: response tokens sampled.
        prompt_tokens: of the answers sampled now: ``forwarded``, ``ideal`` (each distinct prefix
            once) and ``unshared`` (each prompt whole).
    """

    pairs: list[PreferencePair]
    dropped: dict[str, int]
    responses: int
    tokens: int
    prompt_tokens: dict[str, int]


def answer_key(context_id: str, prompt_id: str, sample: int = 0) -> str:
    """Key of one sampled answer; the text depends on the seed and this key alone."""
    return f"{context_id}\x1f{prompt_id}" + (f"\x1f{sample}" if sample else "")


def encode(
    lm: LanguageModel, context: Context | None, prompt: Prompt, config: GenerateConfig
) -> tuple[int, ...]:
    """Token ids of context and prompt in the model's chat template, checked against its window.

    Raises:
        DataError: prompt and answer together do not fit the model's window.
    """
    messages = chat_template.messages(context, prompt)
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


def _pair(
    contrast: Contrast,
    contexts: Mapping[str, Context],
    prompts: Mapping[str, Prompt],
    answers: Mapping[str, Response],
) -> PreferencePair:
    context = contexts.get(contrast.context_id)
    prompt = prompts[contrast.prompt_id]
    negative_prompt = contrast.negative_prompt_id or contrast.prompt_id
    return PreferencePair(
        id=contrast.id,
        messages=chat_template.messages(context, prompt),
        chosen=answers[answer_key(contrast.context_id, contrast.prompt_id, contrast.sample)],
        rejected=answers[
            answer_key(contrast.negative_context_id, negative_prompt, contrast.sample)
        ],
        context_id=contrast.context_id,
        prompt_id=contrast.prompt_id,
        negative_context_id=contrast.negative_context_id,
        negative_prompt_id=contrast.negative_prompt_id,
    )


def without_thoughts(answer: Response) -> Response:
    """The answer without its whole ``<think>`` blocks; a block without end or start stays."""
    text = re.sub(r"<think>.*?</think>\s*", "", answer.text, flags=re.DOTALL)
    return answer if text == answer.text else replace(answer, text=text, token_ids=())


def _some_left(kept: Sequence[PreferencePair], count: int, dropped: Mapping[str, int]) -> None:
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"No usable pair is left of {count}: {reasons}.",
            "raise --max-tokens when answers are cut off, --temperature when they are equal; "
            "loosen --min-pmi and --length-ratio",
        )


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
        messages = chat_template.messages(context, longest)
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


def asks(
    contexts: Sequence[Context], prompts: Sequence[Prompt], contrasts: Sequence[Contrast]
) -> list[Ask]:
    """The answers that contrasts need, both sides of each in turn."""
    by_context = {context.id: context for context in contexts}
    by_prompt = {prompt.id: prompt for prompt in prompts}
    wanted = []
    for item in contrasts:
        other = by_prompt[item.negative_prompt_id or item.prompt_id]
        wanted.append(Ask(by_context.get(item.context_id), by_prompt[item.prompt_id], item.sample))
        wanted.append(Ask(by_context.get(item.negative_context_id), other, item.sample))
    return wanted


def generate(
    lm: LanguageModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    contrasts: Sequence[Contrast],
    config: GenerateConfig,
    *,
    seed: int,
    on_progress: Progress,
    journal: AnswerJournal | None = None,
) -> Generated:
    """Sample every answer the contrasts ask for, pair them, drop bad pairs, score the reference.

    Raises:
        DataError: an input does not fit the model's window, or no pair is left.
    """
    by_context = {context.id: context for context in contexts}
    by_prompt = {prompt.id: prompt for prompt in prompts}
    wanted = asks(contexts, prompts, contrasts)
    tally = Tally()
    answers = sample(lm, wanted, config, seed, on_progress, journal=journal, tally=tally)
    tokens = sum(len(answer.token_ids) for answer in answers.values())
    if not config.keep_thinking:
        answers = {key: without_thoughts(answer) for key, answer in answers.items()}
    raw = [_pair(item, by_context, by_prompt, answers) for item in contrasts]
    kept, dropped = filter_pairs(raw, same_language=config.same_language)
    _some_left(kept, len(raw), dropped)
    pairs = with_reference(
        lm,
        kept,
        enable_thinking=config.enable_thinking,
        on_progress=on_progress,
        negatives={
            pair.id: chat_template.messages(
                by_context.get(pair.negative_context_id),
                by_prompt[pair.negative_prompt_id or pair.prompt_id],
            )
            for pair in kept
        },
    )
    least = config.min_pmi if config.min_pmi > -1000 else None
    pairs, more = filter_scored(pairs, min_pmi=least, length_ratio=config.length_ratio)
    dropped.update(more)
    if config.match_lengths:
        matched = match_lengths(pairs)
        dropped["length"] += len(pairs) - len(matched)
        pairs = matched
    _some_left(pairs, len(raw), dropped)
    return Generated(pairs, dropped, len(answers), tokens, asdict(tally))
