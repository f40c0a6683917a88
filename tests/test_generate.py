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
from mipo_mlx.data.blocks import draw
from mipo_mlx.data.grid import Rules, lay_out
from mipo_mlx.errors import DataError
from mipo_mlx.generation.answers import Ask, asks, cut_contexts, encode, sample, without_thoughts
from mipo_mlx.generation.hard_negatives import nearest_users
from mipo_mlx.generation.pairs import generate
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


def exact(user: str, text: str, ended: bool = True) -> float:
    """log p(text, end | user); without the end, that of a prefix."""
    row = [name for name in ("ann", "bob", "cy")].index(user)
    total, state = 0.0, 0
    words = [{"red": 1, "green": 2, "blue": 3}[word] for word in text.split()]
    for word in words:
        total += TABLE[row, state, word]
        state = word
    return float(total + ended * TABLE[row, state, 0])


@pytest.fixture(scope="module")
def table() -> LanguageModel:
    return LanguageModel(TableModel(), TableTokenizer(), Path("."), "table", "", None)


def table_config(**more: Any) -> GenerateConfig:
    """The table's own distribution, with nothing around what it reads."""
    plain: dict[str, Any] = {"temperature": 1.0, "min_p": 0.0, "context_template": "bare"}
    return GenerateConfig(**{"max_tokens": 60, **plain, **more})


@pytest.mark.parametrize("negatives", ["random", "prompt"])
def test_samples_log_probs_and_pmi_are_those_of_the_table(
    table: LanguageModel, negatives: str
) -> None:
    contexts = [Context(name, name) for name in ("ann", "bob", "cy")]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(PROMPTS)]
    config = table_config(generate_batch_size=97, max_tokens=6)
    rules = Rules(negatives=negatives, seed=1)
    grid = lay_out(contexts, [], prompts, rules)
    made = generate(table, grid, rules, config, on_progress=lambda *_: None)
    assert made.responses == len(grid.cells) == 3 * PROMPTS
    assert len(made.pairs) > 2 * PROMPTS
    for block in {pair.block for pair in made.pairs}:
        mine = [pair for pair in made.pairs if pair.block == block]
        assert Counter(p.chosen.text for p in mine) == Counter(p.rejected.text for p in mine)
    cut_off = 0
    for pair in made.pairs:
        own, other = pair.context_id, pair.negative_context_id
        ended = [side.finish_reason == "stop" for side in (pair.chosen, pair.rejected)]
        chosen = exact(own, pair.chosen.text, ended[0])
        assert pair.ref_chosen_logps == pytest.approx(chosen, rel=1e-6, abs=1e-5)
        assert pair.ref_rejected_logps == pytest.approx(
            exact(own, pair.rejected.text, ended[1]), rel=1e-6, abs=1e-5
        )
        gap = chosen - exact(other, pair.chosen.text, ended[0])
        assert pair.pmi == pytest.approx(gap, rel=1e-6, abs=1e-5)
        cut_off += ended.count(False)
        assert (own == other) == (negatives == "prompt")
    assert made.truncated > 0 and cut_off > 0  # prefixes, whose log-prob has no end in it


def test_sampled_texts_follow_the_table(table: LanguageModel) -> None:
    contexts = [Context(name, name) for name in ("ann", "bob", "cy")]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(PROMPTS)]
    config = table_config(generate_batch_size=50)
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
    config = GenerateConfig(max_prompt_tokens=120, context_template="bare")
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
    config = table_config(negatives="hard", num_negatives=2)

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
    rules = Rules(negatives="hard", prompts_per_context=4, users=2, seed=5)
    wanted = draw(lay_out(contexts, [], prompts, rules, found), rules).contrasts
    assert len(wanted) == 6 * 4
    nearest = sum(item.negative_context_id in found[item.context_id][:2] for item in wanted)
    assert nearest > 0.6 * len(wanted)


def test_several_samples_of_a_prompt_are_different_answers(table: LanguageModel) -> None:
    contexts = [Context(name, name) for name in ("ann", "bob", "cy")]
    prompts = [Prompt(f"p{n}", f"p{n}") for n in range(100)]
    config, rules = table_config(), Rules(samples=3)
    grid = lay_out(contexts, [], prompts, rules)
    made = generate(table, grid, rules, config, on_progress=lambda *_: None)
    assert made.responses == len(grid.cells) == 900
    texts = sample(table, asks(grid), config, 0, lambda *_: None)
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
