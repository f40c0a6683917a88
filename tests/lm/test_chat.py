"""Messages and templates: where context goes, where the prompt ends, what ends a turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mipo_mlx.errors import ConfigError
from mipo_mlx.models import chat_template
from mipo_mlx.models.chat_template import Wrapper
from mipo_mlx.types import Context, Prompt

from . import archs

CONTEXT = Context("u", "Ann lives in Oslo.")
PROMPT = Prompt("p", "Where do I live?")
TURN = "<|im_start|>{role}\n{text}<|im_end|>\n"

NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_SYSTEM = NO_SYSTEM.replace(
    "{{ raise_exception('System role not supported') }}", "{% continue %}"
)
THINKING = archs.CHATML.replace(
    "<|im_start|>assistant\n",
    "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
)
ALWAYS_REFUSES = "{{ raise_exception('no') }}"


def tokenizer(folder: Path, template: str | None = archs.CHATML) -> Any:
    """What ``load_model`` gives, without a model."""
    from mlx_lm.tokenizer_utils import load

    archs.tokenizer_files(folder, template)
    return load(folder, eos_token_ids=[2])


def text(tok: Any, ids: tuple[int, ...]) -> str:
    return str(tok.decode(list(ids), skip_special_tokens=False))


def ids(tok: Any, messages: Any, thinking: bool = False) -> tuple[int, ...]:
    return chat_template.prompt_ids(tok, messages, enable_thinking=thinking)


def test_context_is_the_system_message() -> None:
    assert chat_template.messages(CONTEXT, PROMPT) == (
        {"role": "system", "content": "Ann lives in Oslo."},
        {"role": "user", "content": "Where do I live?"},
    )
    assert chat_template.messages(None, PROMPT) == (
        {"role": "user", "content": "Where do I live?"},
    )


def test_chatml(tmp_path: Path) -> None:
    tok = tokenizer(tmp_path)
    found = ids(tok, chat_template.messages(CONTEXT, PROMPT))
    wanted = (
        TURN.format(role="system", text=CONTEXT.text)
        + TURN.format(role="user", text=PROMPT.text)
        + "<|im_start|>assistant\n"
    )
    assert text(tok, found) == wanted
    assert all(type(token) is int for token in found)
    stock = tok.apply_chat_template(
        list(chat_template.messages(CONTEXT, PROMPT)), add_generation_prompt=True
    )
    assert list(found) == stock


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_templates_without_a_system_role_get_context_in_the_user_turn(
    tmp_path: Path, template: str
) -> None:
    tok = tokenizer(tmp_path, template)
    folded = f"{CONTEXT.text}\n\n{PROMPT.text}"
    wanted = TURN.format(role="user", text=folded) + "<|im_start|>assistant\n"
    assert text(tok, ids(tok, chat_template.messages(CONTEXT, PROMPT))) == wanted
    answer = chat_template.response_ids(
        tok, chat_template.messages(CONTEXT, PROMPT), "In Oslo.", enable_thinking=False
    )
    assert text(tok, answer) == "In Oslo.<|im_end|>"


def test_a_template_that_refuses_everything_says_so(tmp_path: Path) -> None:
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="no"):
        ids(tokenizer(tmp_path, ALWAYS_REFUSES), chat_template.messages(None, PROMPT))


def test_no_template_is_plain_text(tmp_path: Path) -> None:
    tok = tokenizer(tmp_path, None)
    messages = chat_template.messages(CONTEXT, PROMPT)
    assert text(tok, ids(tok, messages)) == f"{CONTEXT.text}\n\n{PROMPT.text}\n"
    answer = chat_template.response_ids(tok, messages, "In Oslo.", enable_thinking=False)
    assert text(tok, answer) == "In Oslo.<|im_end|>"


def test_thinking_is_the_callers_choice(tmp_path: Path) -> None:
    tok = tokenizer(tmp_path, THINKING)
    messages = chat_template.messages(None, PROMPT)
    assert text(tok, ids(tok, messages, thinking=True)).endswith("assistant\n")
    assert text(tok, ids(tok, messages)).endswith("</think>\n\n")


@pytest.mark.parametrize("template", [archs.CHATML, NO_SYSTEM, None])
@pytest.mark.parametrize("context", [CONTEXT, None])
def test_prompt_and_response_make_the_whole_dialogue(
    tmp_path: Path, template: str | None, context: Context | None
) -> None:
    tok = tokenizer(tmp_path, template)
    messages = chat_template.messages(context, PROMPT)
    head = ids(tok, messages)
    answer = chat_template.response_ids(tok, messages, "Oslo, I think.", enable_thinking=False)
    assert answer[-1] in chat_template.eos_ids(tok)
    assert not set(answer[:-1]) & chat_template.eos_ids(tok)
    if template == archs.CHATML:
        dialogue = [*messages, {"role": "assistant", "content": "Oslo, I think."}]
        whole = tok.apply_chat_template(dialogue, add_generation_prompt=False)
        assert whole[: len(head)] == list(head)
        assert whole[len(head) : len(head) + len(answer)] == list(answer)


def test_a_prompt_that_is_no_prefix_leaves_the_response_alone(tmp_path: Path) -> None:
    tok = tokenizer(tmp_path, THINKING)
    answer = chat_template.response_ids(
        tok, chat_template.messages(None, PROMPT), "In Oslo.", enable_thinking=False
    )
    assert text(tok, answer) == "In Oslo.<|im_end|>"


def test_plain_text_meets_no_template(tmp_path: Path) -> None:
    tok = tokenizer(tmp_path)
    messages = ({"role": "text", "content": "The sky is"},)
    assert text(tok, ids(tok, messages)) == "The sky is"
    answer = chat_template.response_ids(tok, messages, " blue.", enable_thinking=False)
    assert text(tok, answer) == " blue.<|im_end|>"


def test_an_answer_cut_off_gets_no_end_of_turn(tmp_path: Path) -> None:
    for template in (archs.CHATML, None):
        tok = tokenizer(tmp_path, template)
        messages = chat_template.messages(CONTEXT, PROMPT)
        whole = chat_template.response_ids(tok, messages, "In Os", enable_thinking=False)
        cut = chat_template.response_ids(tok, messages, "In Os", enable_thinking=False, ended=False)
        assert text(tok, cut) == "In Os"
        assert whole == (*cut, 2)


@pytest.mark.parametrize("name", list(chat_template.TEMPLATES))
def test_a_wrapper_stands_around_the_context_and_comes_off_again(name: str) -> None:
    wrapper = Wrapper.of(name, "Be brief.")
    system, user = chat_template.messages(CONTEXT, PROMPT, wrapper)
    assert system["content"].count(CONTEXT.text) == 1
    assert (system["content"] == CONTEXT.text) == (name == "bare")
    assert user["content"] == "Where do I live? Be brief."
    assert chat_template.messages(None, PROMPT, wrapper) == (user,)
    assert wrapper.unwrapped(system) == CONTEXT.text
    assert wrapper.unwrapped(user) == PROMPT.text
    foreign = {"role": "system", "content": "Something else."}
    assert wrapper.unwrapped(foreign) == "Something else."


def test_a_context_with_braces_is_taken_as_it_is() -> None:
    odd = Context("u", "{context} {0} {name}")
    (system, _) = chat_template.messages(odd, PROMPT, Wrapper.of("Notes: {context}!", ""))
    assert system["content"] == "Notes: {context} {0} {name}!"


def test_problems_keep_their_own_wording() -> None:
    problem = Prompt("p", "1 + 1? The answer is a number.", kind="number")
    (user,) = chat_template.messages(None, problem, Wrapper.of("bare", "Be brief."))
    assert user["content"] == problem.text


@pytest.mark.parametrize("template", ["note", "", "{context} and {context}"])
def test_a_template_without_one_place_for_the_context_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="context-template"):
        Wrapper.of(template, "")


def test_decode_leaves_special_tokens_out_and_eos_is_known(tmp_path: Path) -> None:
    tok = tokenizer(tmp_path)
    assert chat_template.eos_ids(tok) == {2}
    assert chat_template.decode(tok, tok.encode("Grüße<|im_end|>")) == "Grüße"


def test_a_bare_transformers_tokenizer_does_as_well(tmp_path: Path) -> None:
    wrapped = tokenizer(tmp_path)
    bare = wrapped._tokenizer
    messages = chat_template.messages(CONTEXT, PROMPT)
    assert ids(bare, messages) == ids(wrapped, messages)
    assert chat_template.eos_ids(bare) == {2}


def test_ids_of_other_kinds_of_encodings() -> None:
    assert chat_template._ids({"input_ids": [[1, 2]]}) == [1, 2]
    assert chat_template._ids([]) == []
