"""Frozen records of text that travel between the steps. No arrays, no behaviour beyond identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]  # stage, done, total


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class Context:
    """What is known about one user, or a part of it.

    Attributes:
        id: unique among the contexts of a run.
        text: the notes, profile or preferences, as the model will read them.
        facts: optional ``attribute -> value``; lets ``eval`` count true and wrong facts.
        source: ``file:line`` for error messages; no part of identity.
        language: code such as "en", or "" where it is not told; only users of one language serve as
            each other's wrong contexts.
        user: whose it is, where one user has several contexts; "" is a user of its own.
    """

    id: str
    text: str
    facts: Mapping[str, str] = field(default_factory=dict)
    source: str = field(default="", compare=False)
    language: str = ""
    user: str = ""

    @property
    def owner(self) -> str:
        """The user; contexts of one user are never each other's wrong ones."""
        return self.user or self.id


@dataclass(frozen=True)
class Prompt:
    """One request, the same for every user or of one user alone.

    Attributes:
        id: unique among the prompts of a run.
        text: the user turn.
        answer: gold answer for checkable items, else None.
        kind: ``open``, ``number`` (GSM8K's form) or ``choice`` (a letter).
        source: ``file:line`` for error messages; no part of identity.
        context_id: the one user who asks it; "" lets everybody be asked.
        choices: ``(label, text)`` of each choice offered, where a data set tells them.
    """

    id: str
    text: str
    answer: str | None = None
    kind: str = "open"
    source: str = field(default="", compare=False)
    context_id: str = ""
    choices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer.

    Attributes:
        text: decoded without special tokens.
        token_ids: what the model produced, the end-of-turn token included when it stopped.
        finish_reason: ``stop`` (the model ended its turn) or ``length`` (cut off).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


@dataclass(frozen=True)
class PreferencePair:
    """A chosen and a rejected response, both to be scored under ``messages``.

    Attributes:
        id: unique in its file.
        messages: the right prompt and context as chat messages (``role``, ``content``), or, for
            plain preference data, one message of role ``text`` that meets no chat template.
        chosen: sampled under ``messages``.
        rejected: sampled under another or no context, or for another prompt.
        context_id: the right context; empty for the ``prompt`` objective and foreign data.
        prompt_id: the prompt.
        negative_context_id: where ``rejected`` came from; empty when from no context.
        negative_prompt_id: where ``rejected`` came from under the ``prompt`` objective, else empty.
        block: pairs of one block belong in one optimizer step; empty when there are no blocks.
        ref_chosen_logps: summed log-prob under the reference, nats; None when not yet computed.
        ref_rejected_logps: likewise for ``rejected``.
        pmi: ``log p(chosen | right) - log p(chosen | what rejected was sampled under)``, nats.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    chosen: Response
    rejected: Response
    context_id: str = ""
    prompt_id: str = ""
    negative_context_id: str = ""
    negative_prompt_id: str = ""
    block: str = ""
    ref_chosen_logps: float | None = None
    ref_rejected_logps: float | None = None
    pmi: float | None = None
