"""Log-probs under the reference model: of both answers of a pair, and the pair's PMI.

Answers to be scored under one prompt and context are collected first, so that each prompt is
forwarded once whatever it is needed for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mipo_mlx.inference.prefix_tree import Row
from mipo_mlx.inference.scoring import score
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel
from mipo_mlx.types import PreferencePair, Progress, Response

Messages = Sequence[Mapping[str, str]]
Place = tuple[tuple[str, tuple[int, ...]], int]  # node, index among its responses


def group_of(context_id: str) -> str:
    """Prompts of one context share its tokens; those without one share the template's head."""
    return f"context {context_id}"


class _Wanted:
    """Responses to score, by the prompt that they are scored under."""

    def __init__(self, lm: LanguageModel, enable_thinking: bool) -> None:
        self.lm, self.enable_thinking = lm, enable_thinking
        self.nodes: dict[tuple[str, tuple[int, ...]], dict[tuple[int, ...], int]] = {}

    def add(self, context_id: str, messages: Messages, response: Response) -> Place:
        """Where the score will stand."""
        ids = chat_template.prompt_ids(
            self.lm.tokenizer, messages, enable_thinking=self.enable_thinking
        )
        node = (group_of(context_id), tuple(ids))
        responses = self.nodes.setdefault(node, {})
        return node, responses.setdefault(response.token_ids, len(responses))

    def scores(self, on_progress: Progress) -> dict[tuple[str, tuple[int, ...]], tuple[float, ...]]:
        """Summed log-probs of all responses, nats, a tuple a node."""
        rows = [Row(ids, tuple(sides), group) for (group, ids), sides in self.nodes.items()]
        stage, found = "reference log-probs", {}
        on_progress(stage, 0, len(rows))
        for node, values in zip(self.nodes, score(self.lm, rows), strict=True):
            found[node] = values
            on_progress(stage, len(found), len(rows))
        return found


def with_ids(lm: LanguageModel, pair: PreferencePair, enable_thinking: bool) -> PreferencePair:
    """The pair with token ids for answers that are known as text only."""
    sides = []
    for side in (pair.chosen, pair.rejected):
        if not side.token_ids:
            ids = chat_template.response_ids(
                lm.tokenizer,
                pair.messages,
                side.text,
                enable_thinking=enable_thinking,
                ended=side.finish_reason != "length",
            )
            side = replace(side, token_ids=tuple(ids))
        sides.append(side)
    return replace(pair, chosen=sides[0], rejected=sides[1])


def with_reference(
    lm: LanguageModel,
    pairs: Sequence[PreferencePair],
    *,
    enable_thinking: bool,
    on_progress: Progress,
    negatives: Mapping[str, Messages] | None = None,
) -> list[PreferencePair]:
    """Fill in what the reference says of each pair: nats, rounded to six decimals.

    Args:
        lm: the reference, without adapter.
        pairs: token ids are made where they are missing.
        enable_thinking: passed to the chat template.
        on_progress: told after every prompt.
        negatives: by id of a pair, the messages that its rejected answer was sampled under; with
            them ``pmi`` is filled in, ``log p(chosen | own) - log p(chosen | negative)``.
    """
    wanted = _Wanted(lm, enable_thinking)
    full, places = [], []
    for pair in (with_ids(lm, pair, enable_thinking) for pair in pairs):
        own = [wanted.add(pair.context_id, pair.messages, s) for s in (pair.chosen, pair.rejected)]
        other = (negatives or {}).get(pair.id)
        if other is not None:
            own.append(wanted.add(pair.negative_context_id, other, pair.chosen))
        full.append(pair)
        places.append(own)
    scores = wanted.scores(on_progress)
    done = []
    for pair, where in zip(full, places, strict=True):
        chosen, rejected, *rest = (scores[node][index] for node, index in where)
        done.append(
            replace(
                pair,
                ref_chosen_logps=round(chosen, 6),
                ref_rejected_logps=round(rejected, 6),
                pmi=round(chosen - rest[0], 6) if rest else None,
            )
        )
    return done
