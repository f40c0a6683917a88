"""Contexts and prompts as chat messages, and chat messages as token ids.

The context stands in the system message, within the run's ``Wrapper``. Templates without a system
role get it at the head of the user turn; models without a template get plain text. Not covered:
tools, images, several turns of thinking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipo_mlx.errors import ConfigError
from mipo_mlx.types import Context, Prompt

Messages = Sequence[Mapping[str, str]]


# How a context may be put to a model. Only the bare text has no word of ours.
TEMPLATES = {
    "bare": "{context}",
    "notes": "You are a helpful assistant. Notes about the user who is asking:\n{context}\n"
    "Answer the user so that it suits them.",
    "about": "What follows are notes that the user wrote about themselves:\n\n{context}\n\n"
    "You are the user's assistant. Use the notes where they matter, and speak to the user as "
    '"you".',
    "told": "You are a helpful assistant talking to a user. The user has told you about "
    'themselves: "{context}"',
}
SLOT = "{context}"


@dataclass(frozen=True)
class Wrapper:
    """What stands around a context and after a request, the same wherever a model reads them.

    Attributes:
        template: text with ``{context}`` in it, once.
        style: a sentence at the end of open requests; "" is none.
    """

    template: str = SLOT
    style: str = ""

    @classmethod
    def of(cls, template: str, style: str) -> Wrapper:
        """From a name of ``TEMPLATES`` or a text with ``{context}``.

        Raises:
            ConfigError: it is neither.
        """
        text = TEMPLATES.get(template, template)
        if text.count(SLOT) != 1:
            raise ConfigError(
                f"--context-template: {template!r} is no name, and holds {SLOT} "
                f"{text.count(SLOT)} times.",
                f"take {', '.join(TEMPLATES)}, or write a text with {SLOT} once",
            )
        return cls(text, style.strip())

    def system(self, context: Context) -> str:
        """The system message of a context."""
        return self.template.replace(SLOT, context.text)

    def user(self, prompt: Prompt) -> str:
        """The user turn of a request; problems say themselves how they want to be answered."""
        styled = self.style and prompt.kind == "open"
        return f"{prompt.text} {self.style}" if styled else prompt.text

    def unwrapped(self, message: Mapping[str, str]) -> str:
        """The context or request that this wrapper made a message from; others as they are."""
        text = message["content"]
        head, _, tail = self.template.partition(SLOT)
        if message["role"] == "system" and text.startswith(head) and text.endswith(tail):
            return text[len(head) : len(text) - len(tail)]
        return text.removesuffix(f" {self.style}") if self.style else text


BARE = Wrapper()


def messages(
    context: Context | None, prompt: Prompt, wrapper: Wrapper = BARE
) -> tuple[dict[str, str], ...]:
    """Chat messages of one request; without a context, the user turn alone."""
    user = {"role": "user", "content": wrapper.user(prompt)}
    if context is None:
        return (user,)
    return ({"role": "system", "content": wrapper.system(context)}, user)


def _fold(chat: Messages) -> list[dict[str, str]]:
    """Move system text to the head of the next user turn."""
    folded: list[dict[str, str]] = []
    waiting = ""
    for message in chat:
        if message["role"] == "system":
            waiting += message["content"] + "\n\n"
            continue
        content = message["content"]
        if waiting and message["role"] == "user":
            content, waiting = waiting + content, ""
        folded.append({"role": message["role"], "content": content})
    if waiting:
        folded.append({"role": "user", "content": waiting.rstrip("\n")})
    return folded


def _plain(chat: Messages, generate: bool) -> str:
    """Text for models without a chat template: turns apart by a blank line."""
    text = "\n\n".join(message["content"] for message in chat if message["role"] != "assistant")
    answer = "".join(message["content"] for message in chat if message["role"] == "assistant")
    return text + "\n" + ("" if generate else answer)


def _template(tokenizer: Any, chat: Messages, generate: bool, enable_thinking: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in chat],
            tokenize=False,
            add_generation_prompt=generate,
            enable_thinking=enable_thinking,
        )
    )


def _has_template(tokenizer: Any) -> bool:
    own = getattr(tokenizer, "has_chat_template", None)
    return bool(own) if own is not None else tokenizer.chat_template is not None


def _render(tokenizer: Any, chat: Messages, generate: bool, enable_thinking: bool) -> str:
    """Messages as the text the model reads, special tokens written out."""
    from jinja2.exceptions import TemplateError

    if not _has_template(tokenizer):
        return _plain(chat, generate)
    system = [message["content"].strip() for message in chat if message["role"] == "system"]
    try:
        text = _template(tokenizer, chat, generate, enable_thinking)
    except TemplateError:
        if not system:
            raise
    else:
        if all(content in text for content in system):  # some templates drop the role silently
            return text
    return _template(tokenizer, _fold(chat), generate, enable_thinking)


def _ids(encoded: Any) -> list[int]:
    """Plain ids of whatever ``encode`` returns in this version of transformers."""
    if isinstance(encoded, Mapping):
        encoded = encoded["input_ids"]
    encoded = getattr(encoded, "ids", encoded)
    if len(encoded) and not isinstance(encoded[0], int):
        encoded = encoded[0]
    return [int(token) for token in encoded]


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    return _ids(tokenizer.encode(text, add_special_tokens=special))


def _is_text(chat: Messages) -> bool:
    return len(chat) == 1 and chat[0]["role"] == "text"


def prompt_ids(tokenizer: Any, messages: Messages, *, enable_thinking: bool) -> tuple[int, ...]:
    """Token ids of a request up to where the answer starts.

    Args:
        tokenizer: of ``load_model``, or one of transformers.
        messages: chat messages, or one message of role ``text`` that meets no template.
        enable_thinking: passed to the chat template.

    Raises:
        jinja2.exceptions.TemplateError: the template refuses the messages.
    """
    if _is_text(messages):
        return tuple(_encode(tokenizer, messages[0]["content"], special=True))
    text = _render(tokenizer, messages, True, enable_thinking)
    return tuple(_encode(tokenizer, text, special=not _has_template(tokenizer)))


def response_ids(
    tokenizer: Any,
    messages: Messages,
    response_text: str,
    *,
    enable_thinking: bool,
    ended: bool = True,
) -> tuple[int, ...]:
    """Token ids of an answer that is known as text only, with its end-of-turn token.

    One that was cut off (``ended`` is false) gets none: its log-prob is that of a prefix.
    Where the rendered dialogue starts with ``prompt_ids``, its rest up to the end of turn is the
    answer; else the text is encoded alone.
    """
    ends = eos_ids(tokenizer)
    answer: list[int] = []
    if not _is_text(messages) and _has_template(tokenizer):
        head = list(prompt_ids(tokenizer, messages, enable_thinking=enable_thinking))
        dialogue = [*messages, {"role": "assistant", "content": response_text}]
        text = _render(tokenizer, dialogue, False, enable_thinking)
        whole = _encode(tokenizer, text, special=False)
        if whole[: len(head)] == head:
            answer = whole[len(head) :]
    if not answer:
        answer = _encode(tokenizer, response_text, special=False)
    for index, token in enumerate(answer):
        if token in ends:
            return tuple(answer[: index + ended])
    return (*answer, *_end(tokenizer)) if ended else tuple(answer)


def _end(tokenizer: Any) -> tuple[int, ...]:
    """The end-of-turn token to append, if the tokenizer has any."""
    if tokenizer.eos_token_id is not None:
        return (int(tokenizer.eos_token_id),)
    return tuple(sorted(eos_ids(tokenizer))[:1])


def eos_ids(tokenizer: Any) -> set[int]:
    """Tokens that end a turn."""
    several = getattr(tokenizer, "eos_token_ids", None) or tokenizer.eos_token_id
    if several is None:
        return set()
    return {int(token) for token in ([several] if isinstance(several, int) else several)}


def decode(tokenizer: Any, ids: Iterable[int]) -> str:
    """Text of token ids, special tokens left out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
