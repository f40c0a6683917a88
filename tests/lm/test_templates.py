"""Chat templates of well-known families: text, tokens, boundary and end of turn, token by token.

The templates are those the models were published with, shortened by their branches for tools. What
transformers renders and encodes is the oracle, and the wanted texts are written out besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mipo_mlx.models import chat_template
from mipo_mlx.types import Context, Prompt

from . import archs

CONTEXT = Context("u", "Ann lives in Oslo.")
PROMPT = Prompt("p", "Where do I live?")
ANSWER = "In Oslo, I think."


@dataclass(frozen=True)
class Family:
    """A template, its special tokens, and what it must make of a request with a context."""

    template: str
    special: tuple[str, ...]
    ends: tuple[str, ...]  # the first is the tokenizer's own
    wanted: str
    tail: str  # of the answer, up to the end of its turn
    bos: str | None = None
    system: bool = True
    thinking: bool = False


ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN3 = (
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    + ALTERNATE
    + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    + ALTERNATE
    + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SYSTEM, USER = CONTEXT.text, PROMPT.text
CHATML_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML_TEXT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{USER}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
FAMILIES = {
    "chatml": Family(archs.CHATML, CHATML_SPECIAL, ("<|im_end|>",), CHATML_TEXT, "<|im_end|>"),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eot_id|>"),
        ("<|eot_id|>", "<|end_of_text|>"),
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{USER}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "qwen3": Family(
        QWEN3, CHATML_SPECIAL, ("<|im_end|>",), CHATML_TEXT + "<think>\n\n</think>\n\n",
        "<|im_end|>",
    ),
    "qwen3 thinking": Family(
        QWEN3, CHATML_SPECIAL, ("<|im_end|>",), CHATML_TEXT, "<|im_end|>", thinking=True
    ),
    "gemma": Family(
        GEMMA,
        ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>", "<eos>"),
        f"<bos><start_of_turn>user\n{SYSTEM}\n\n{USER}<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
        bos="<bos>",
        system=False,
    ),
    "mistral": Family(
        MISTRAL, ("<unk>", "<s>", "</s>"), ("</s>",),
        f"<s>[INST] {SYSTEM}\n\n{USER} [/INST]", "</s>", bos="<s>", system=False,
    ),
    "phi3": Family(
        PHI3,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ("<|end|>", "<|endoftext|>"),
        f"<|system|>\n{SYSTEM}<|end|>\n<|user|>\n{USER}<|end|>\n<|assistant|>\n",
        "<|end|>",
    ),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def ours(family: Family, tmp_path: Path) -> Any:
    from mlx_lm.tokenizer_utils import load

    archs.tokenizer_files(tmp_path, family.template, family.special, family.ends[0], family.bos)
    return load(tmp_path, eos_token_ids=[family.special.index(end) for end in family.ends])


@pytest.fixture
def oracle(ours: Any, tmp_path: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(tmp_path)


def folded(family: Family) -> list[dict[str, str]]:
    """The messages as transformers must be given them."""
    if family.system:
        return [dict(message) for message in chat_template.messages(CONTEXT, PROMPT)]
    return [{"role": "user", "content": f"{SYSTEM}\n\n{USER}"}]


def test_the_prompt_is_what_transformers_makes_of_it(
    family: Family, ours: Any, oracle: Any
) -> None:
    found = chat_template.prompt_ids(
        ours, chat_template.messages(CONTEXT, PROMPT), enable_thinking=family.thinking
    )
    rendered = oracle.apply_chat_template(
        folded(family), tokenize=False, add_generation_prompt=True, enable_thinking=family.thinking
    )
    assert rendered == family.wanted
    assert list(found) == oracle(rendered, add_special_tokens=False)["input_ids"]
    if family.bos:
        assert found.count(family.special.index(family.bos)) == 1


def test_the_answer_starts_where_the_prompt_ends_and_ends_with_its_turn(
    family: Family, ours: Any, oracle: Any
) -> None:
    messages = chat_template.messages(CONTEXT, PROMPT)
    head = chat_template.prompt_ids(ours, messages, enable_thinking=family.thinking)
    answer = chat_template.response_ids(ours, messages, ANSWER, enable_thinking=family.thinking)
    said = oracle.decode(answer, skip_special_tokens=False)
    before = "<think>\n\n</think>\n\n" if family.thinking else ""
    assert said.lstrip() == before + ANSWER + family.tail
    assert chat_template.eos_ids(ours) == {family.special.index(end) for end in family.ends}
    assert answer[-1] == family.special.index(family.ends[0])
    assert not set(answer[:-1]) & chat_template.eos_ids(ours)
    whole = oracle.apply_chat_template(
        [*folded(family), {"role": "assistant", "content": ANSWER}], tokenize=False
    )
    tokens = oracle(whole, add_special_tokens=False)["input_ids"]
    assert tokens[: len(head) + len(answer)] == [*head, *answer]
    assert chat_template.decode(ours, answer).strip().endswith(ANSWER)
