"""Step 1: contexts x prompts -> preference pairs with reference log-probs.

The rejected answer is sampled under something else (another user's context, no context, another
prompt); both answers are scored under the right prompt and context. An answer is sampled once for
each (context, prompt) and serves wherever it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mipo_mlx.config import GenerateConfig
from mipo_mlx.data.contrast import Contrast
from mipo_mlx.data.pairs import filter_pairs
from mipo_mlx.errors import DataError
from mipo_mlx.lm import chat
from mipo_mlx.lm.forest import Row
from mipo_mlx.lm.load import LanguageModel
from mipo_mlx.lm.respond import Job, Sampling, respond
from mipo_mlx.lm.score import score
from mipo_mlx.types import Context, PreferencePair, Prompt, Response

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Generated:
    """What step 1 made.

    Attributes:
        pairs: kept pairs, in the order of their contrasts.
        dropped: pairs left out, by reason.
        responses: answers sampled.
        tokens: response tokens sampled.
    """

    pairs: list[PreferencePair]
    dropped: dict[str, int]
    responses: int
    tokens: int


def answer_key(context_id: str, prompt_id: str) -> str:
    """Key of one sampled answer; the text depends on the seed and this key alone."""
    return f"{context_id}\x1f{prompt_id}"


def group_of(context_id: str) -> str:
    """Prompts of one context share its tokens; those without one share the template's head."""
    return f"context {context_id}"


def encode(
    lm: LanguageModel, context: Context | None, prompt: Prompt, config: GenerateConfig
) -> tuple[int, ...]:
    """Token ids of context and prompt in the model's chat template, checked against its window.

    Raises:
        DataError: prompt and answer together do not fit the model's window.
    """
    messages = chat.messages(context, prompt)
    ids = chat.prompt_ids(lm.tokenizer, messages, enable_thinking=config.enable_thinking)
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
    wanted: Iterable[tuple[Context | None, Prompt]],
    config: GenerateConfig,
    seed: int,
    on_progress: Progress,
    stage: str = "sample answers",
) -> dict[str, Response]:
    """Sample one answer for each distinct (context, prompt), keyed by ``answer_key``."""
    jobs: dict[str, Job] = {}
    for context, prompt in wanted:
        key = answer_key(context.id if context else "", prompt.id)
        if key not in jobs:
            ids = encode(lm, context, prompt, config)
            jobs[key] = Job(key=key, prompt_ids=ids, group=group_of(context.id if context else ""))
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_tokens,
        seed=seed,
        batch_size=config.generate_batch_size,
    )
    answers: dict[str, Response] = {}
    on_progress(stage, 0, len(jobs))
    for key, response in respond(lm, list(jobs.values()), sampling):
        answers[key] = response
        on_progress(stage, len(answers), len(jobs))
    return answers


def with_reference(
    lm: LanguageModel,
    pairs: Sequence[PreferencePair],
    *,
    enable_thinking: bool,
    on_progress: Progress,
) -> list[PreferencePair]:
    """Fill in token ids where missing, and the summed log-probs of both answers, in nats.

    ``lm`` must be the reference, without adapter. Log-probs are rounded to six decimals.
    """
    filled, rows = [], []
    for pair in pairs:
        sides = []
        for side in (pair.chosen, pair.rejected):
            if not side.token_ids:
                ids = chat.response_ids(
                    lm.tokenizer, pair.messages, side.text, enable_thinking=enable_thinking
                )
                side = replace(side, token_ids=tuple(ids))
            sides.append(side)
        filled.append(replace(pair, chosen=sides[0], rejected=sides[1]))
        prompt = chat.prompt_ids(lm.tokenizer, pair.messages, enable_thinking=enable_thinking)
        sides_ids = tuple(side.token_ids for side in sides)
        rows.append(Row(tuple(prompt), sides_ids, group_of(pair.context_id)))
    done = []
    stage = "reference log-probs"
    on_progress(stage, 0, len(rows))
    for pair, (chosen, rejected) in zip(filled, score(lm, rows), strict=True):
        logps = {
            "ref_chosen_logps": round(float(chosen), 6),
            "ref_rejected_logps": round(float(rejected), 6),
        }
        done.append(replace(pair, **logps))  # type: ignore[arg-type]
        on_progress(stage, len(done), len(rows))
    return done


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
        messages=chat.messages(context, prompt),
        chosen=answers[answer_key(contrast.context_id, contrast.prompt_id)],
        rejected=answers[answer_key(contrast.negative_context_id, negative_prompt)],
        context_id=contrast.context_id,
        prompt_id=contrast.prompt_id,
        negative_context_id=contrast.negative_context_id,
        negative_prompt_id=contrast.negative_prompt_id,
    )


def generate(
    lm: LanguageModel,
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    contrasts: Sequence[Contrast],
    config: GenerateConfig,
    *,
    seed: int,
    on_progress: Progress,
) -> Generated:
    """Sample every answer the contrasts ask for, pair them, drop bad pairs, score the reference.

    Raises:
        DataError: an input does not fit the model's window, or no pair is left.
    """
    by_context = {context.id: context for context in contexts}
    by_prompt = {prompt.id: prompt for prompt in prompts}
    wanted: list[tuple[Context | None, Prompt]] = []
    for item in contrasts:
        wanted.append((by_context.get(item.context_id), by_prompt[item.prompt_id]))
        other = by_prompt[item.negative_prompt_id or item.prompt_id]
        wanted.append((by_context.get(item.negative_context_id), other))
    answers = sample(lm, wanted, config, seed, on_progress)
    raw = [_pair(item, by_context, by_prompt, answers) for item in contrasts]
    kept, dropped = filter_pairs(raw)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"No usable pair is left of {len(raw)}: {reasons}.",
            "raise --max-tokens when answers are cut off; raise --temperature when they are equal",
        )
    pairs = with_reference(
        lm, kept, enable_thinking=config.enable_thinking, on_progress=on_progress
    )
    tokens = sum(len(answer.token_ids) for answer in answers.values())
    return Generated(pairs, dropped, len(answers), tokens)
