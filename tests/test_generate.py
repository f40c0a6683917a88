"""Pairs from a model whose every probability is known; what becomes of contexts and thoughts."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scipy.stats import chisquare

from mipo_mlx.config import GenerateConfig
from mipo_mlx.data.negatives import contrast
from mipo_mlx.errors import DataError
from mipo_mlx.generation.hard_negatives import nearest_users
from mipo_mlx.generation.pairs import (
    Ask,
    asks,
    cut_contexts,
    encode,
    generate,
    sample,
    without_thoughts,
)
from mipo_mlx.inference.prefill import Tally
from mipo_mlx.inference.prefix_tree import distinct_prefix_tokens
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import LanguageModel, load_model
from mipo_mlx.types import Context, Prompt, Response

END, USERS, WORDS = 0, (1, 2, 3), (4, 5, 6)
NAMES = {END: "", 1: "ann", 2: "bob", 3: "cy", 4: "red", 5: "green", 6: "blue"}
FIRST_PROMPT, PROMPTS = 7, 600
VOCAB = FIRST_PROMPT + PROMPTS
# log p(next | user, what stands before): before is a prompt, or one of the three words.
RNG = np.random.default_rng(4)
TABLE = np.log(RNG.dirichlet(np.ones(4), (len(USERS), 4)))
NEXT = (END, *WORDS)


class TableTokenizer:
    """Words apart by spaces; the chat template writes contexts and prompts one after the other."""

    eos_token_id = END
    chat_template = "given"
    has_chat_template = True

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = {name: token for token, name in NAMES.items()}
        return [ids[w] if w in ids else FIRST_PROMPT + int(w[1:]) for w in text.split()]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(NAMES[token] for token in ids if token != END)

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return " ".join(message["content"] for message in messages)


class TableModel:
    """``p(next | first token, last token)``, through the cache that real models use."""

    model_type = "table"
    training = False

    def __init__(self) -> None:
        self.layers = [object()]
        logits = np.full((len(USERS), 4, VOCAB), -1e9, np.float32)
        logits[:, :, list(NEXT)] = TABLE
        self.logits = mx.array(logits)

    def train(self, mode: bool = True) -> None:
        pass

    def eval(self) -> None:
        pass

    def __call__(self, inputs: mx.array, cache: Any) -> mx.array:
        tokens = inputs[:, None, :, None].astype(mx.float32)
        keys, _ = cache[0].update_and_fetch(tokens, tokens)
        user = keys[:, 0, 0, 0].astype(mx.int32) - USERS[0]
        state = mx.where(inputs >= FIRST_PROMPT, 0, inputs - WORDS[0] + 1)
        return self.logits[mx.maximum(user, 0)[:, None], mx.clip(state, 0, 3)]


def exact(user: str, text: str) -> float:
    """log p(text, end | user)."""
    row = [name for name in ("ann", "bob", "cy")].index(user)
    total, state = 0.0, 0
    words = [{"red": 1, "green": 2, "blue": 3}[word] for word in text.split()]
    for word in words:
        total += TABLE[row, state, word]
        state = word
    return float(total + TABLE[row, state, 0])


@pytest.fixture(scope="module")
def table() -> LanguageModel:
    return LanguageModel(TableModel(), TableTokenizer(), Path("."), "table", "", None)


@pytest.mark.parametrize("negatives", ["random", "prompt"])
def test_samples_log_probs_and_pmi_are_those_of_the_table(
    table: LanguageModel, negatives: str
) -> None:
    contexts = [Context(name, name) for name in ("ann", "bob", "cy")]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(PROMPTS)]
    config = GenerateConfig(max_tokens=60, prompts_per_context=0, generate_batch_size=97)
    wanted = contrast(
        contexts, prompts, objective="context", negatives=negatives, prompts_per_context=0, seed=1
    )
    made = generate(table, contexts, prompts, wanted, config, seed=1, on_progress=lambda *_: None)
    assert made.responses == len(wanted) == 3 * PROMPTS
    for pair in made.pairs:
        own, other = pair.context_id, pair.negative_context_id
        assert pair.ref_chosen_logps == pytest.approx(
            exact(own, pair.chosen.text), rel=1e-6, abs=1e-5
        )
        assert pair.ref_rejected_logps == pytest.approx(
            exact(own, pair.rejected.text), rel=1e-6, abs=1e-5
        )
        gap = exact(own, pair.chosen.text) - exact(other, pair.chosen.text)
        assert pair.pmi == pytest.approx(gap, rel=1e-6, abs=1e-5)
        assert (own == other) == (negatives == "prompt")


def test_sampled_texts_follow_the_table(table: LanguageModel) -> None:
    contexts = [Context(name, name) for name in ("ann", "bob", "cy")]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(PROMPTS)]
    config = GenerateConfig(max_tokens=60, generate_batch_size=50)
    wanted = [Ask(context, prompt) for context in contexts for prompt in prompts]
    answers = sample(table, wanted, config, 3, lambda *_: None)
    short = [
        " ".join(words)
        for count in range(3)
        for words in itertools.product(("red", "green", "blue"), repeat=count)
    ]
    for context in contexts:
        texts = [answers[f"{context.id}\x1f{prompt.id}"].text for prompt in prompts]
        counts = Counter(text if text in short else "longer" for text in texts)
        shares = {text: math.exp(exact(context.id, text)) for text in short}
        shares["longer"] = 1.0 - sum(shares.values())
        big = [text for text, share in shares.items() if share * PROMPTS >= 5]
        found = [counts[text] for text in big]
        expected = [shares[text] * PROMPTS for text in big]
        rest = PROMPTS - sum(found)
        result = chisquare([*found, rest], [*expected, PROMPTS - sum(expected)])
        assert result.pvalue > 1e-3, context.id


def test_contexts_are_cut_from_their_old_end_and_prompts_never() -> None:
    lm = load_model("embedded")
    long = " ".join(f"note{n}" for n in range(200))
    contexts = [Context("long", long), Context("short", "note1 note2")]
    prompts = [Prompt("a", "Plan my day."), Prompt("b", "Plan my day and the day after it.")]
    config = GenerateConfig(max_prompt_tokens=120)
    made, cut = cut_contexts(lm, contexts, prompts, config)
    assert cut == 1
    assert made[1] == contexts[1]
    assert long.endswith(made[0].text)
    sizes = []
    for words in (made[0].text, "note999 " + made[0].text):
        messages = chat_template.messages(Context("x", words), prompts[1])
        sizes.append(len(chat_template.prompt_ids(lm.tokenizer, messages, enable_thinking=False)))
    assert sizes[0] <= 120 < sizes[1] + 4
    assert cut_contexts(lm, contexts, prompts, GenerateConfig()) == (contexts, 0)
    with pytest.raises(DataError, match="'b' leaves no room"):
        cut_contexts(lm, contexts, prompts, GenerateConfig(max_prompt_tokens=10))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>a\nb</think>\n\nYes.", "Yes."),
        ("<think></think>Yes.<think>c</think> No.", "Yes.No."),
        ("<think>never ends", "<think>never ends"),
        ("Plain.", "Plain."),
    ],
)
def test_whole_thoughts_are_taken_out_and_ids_made_anew(text: str, wanted: str) -> None:
    found = without_thoughts(Response(text, (1, 2), "stop"))
    assert found.text == wanted
    assert found.token_ids == ((1, 2) if text == wanted else ())


def test_hard_negatives_are_the_users_under_whose_contexts_the_answers_are_likeliest(
    table: LanguageModel,
) -> None:
    contexts = [
        Context(f"{name}{n}", text)
        for name in ("ann", "bob", "cy")
        for n, text in enumerate((name, f"{name} red"))
    ]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(40)]
    config = GenerateConfig(negatives="hard", num_negatives=2, max_tokens=60)

    def quiet(*_: Any) -> None: ...

    found = nearest_users(table, contexts, prompts, config, seed=5, on_progress=quiet)
    answers = sample(
        table, [Ask(c, p) for c in contexts for p in prompts], config, 5, lambda *_: None
    )
    probes = random.Random("5:probes").sample(prompts, 2)
    for user in contexts:
        said = [answers[Ask(user, prompt).key].text for prompt in probes]
        likely = {
            other.id: sum(exact(other.id[:-1], text) for text in said)
            for other in contexts
            if other.id != user.id
        }
        assert sorted(found[user.id]) == sorted(likely)
        values = [likely[name] for name in found[user.id]]
        assert values == pytest.approx(sorted(values, reverse=True), abs=1e-4)
    wanted = contrast(
        contexts,
        prompts,
        objective="context",
        negatives="hard",
        prompts_per_context=4,
        seed=5,
        num_negatives=2,
        nearest=found,
    )
    assert len(wanted) == 6 * 4 * 2
    by_pair: dict[tuple[str, str], list[str]] = {}
    for item in wanted:
        by_pair.setdefault((item.context_id, item.prompt_id), []).append(item.negative_context_id)
    assert all(others == found[user][:2] for (user, _), others in by_pair.items())


def test_several_samples_of_a_prompt_are_different_answers(table: LanguageModel) -> None:
    contexts = [Context(name, name) for name in ("ann", "bob", "cy")]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(100)]
    config = GenerateConfig(samples_per_prompt=3, max_tokens=60)
    options: dict[str, Any] = {
        "objective": "context", "negatives": "random", "prompts_per_context": 0, "seed": 0,
    }  # fmt: skip
    once = contrast(contexts, prompts, **options)
    wanted = contrast(contexts, prompts, samples_per_prompt=3, **options)
    assert wanted[: len(once)] == once
    assert len({item.id for item in wanted}) == len(wanted) == 3 * len(once)
    made = generate(table, contexts, prompts, wanted, config, seed=0, on_progress=lambda *_: None)
    assert made.responses == 900
    texts = sample(table, asks(contexts, prompts, wanted), config, 0, lambda *_: None)
    same = sum(
        texts[Ask(c, p, 0).key].text == texts[Ask(c, p, 1).key].text
        for c in contexts
        for p in prompts
    )
    chance = np.mean(  # that two answers agree, from the table
        [
            sum(
                math.exp(2 * exact(c.id, " ".join(words)))
                for count in range(5)
                for words in itertools.product(("red", "green", "blue"), repeat=count)
            )
            for c in contexts
        ]
    )
    assert same / 300 == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 300))


def test_distinct_prefixes_are_counted_once() -> None:
    rng = random.Random(0)
    for _ in range(50):
        prompts = [
            tuple(rng.choice((1, 2)) for _ in range(rng.randint(1, 7)))
            for _ in range(rng.randint(1, 9))
        ]
        prefixes = {ids[:end] for ids in prompts for end in range(1, len(ids) + 1)}
        assert distinct_prefix_tokens(prompts) == len(prefixes)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_prompt_tokens_forwarded_are_near_the_least_possible(batch: int) -> None:
    lm = load_model("embedded")
    contexts = [Context(f"u{n}", " ".join(f"Fact {n} {k}." for k in range(20))) for n in range(6)]
    prompts = [Prompt(f"p{n}", f"What of the number {n * 37}?") for n in range(8)]
    config = GenerateConfig(max_tokens=4, generate_batch_size=batch)
    tally = Tally()
    wanted = [Ask(context, prompt) for context in contexts for prompt in prompts]
    sample(lm, wanted, config, 0, lambda *_: None, tally=tally)
    assert tally.ideal <= tally.forwarded <= 1.05 * tally.ideal
    sizes = [len(encode(lm, ask.context, ask.prompt, config)) for ask in wanted]
    assert tally.unshared == sum(sizes) > 3 * tally.ideal
