"""What the check finds of models that run our way, and of those that do not, in each precision."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mipo_mlx.config import TrainConfig
from mipo_mlx.data.batches import EncodedPair
from mipo_mlx.errors import ModelError
from mipo_mlx.inference import compat_check, lm_head, precision
from mipo_mlx.inference.compat_check import find_paths, some_rows, told
from mipo_mlx.inference.kv_cache import GrowingCache, Layout
from mipo_mlx.inference.prefix_tree import Row, alone, plant, sequence_logprobs
from mipo_mlx.inference.sampling import Job, Sampling, respond
from mipo_mlx.inference.scoring import score, score_tokens
from mipo_mlx.models.load import EVERY_PATH, LanguageModel, Paths
from mipo_mlx.training import compat_check as training_check
from mipo_mlx.training import step
from mipo_mlx.training.collate import TrainingRow
from mipo_mlx.training.gradients import loss_gradient
from mipo_mlx.training.memory_plan import Plan

from . import archs
from .test_forest import SMALL, plain, ragged, relative, with_lora
from .test_gradient import by_rows, contrast

IDS = range(40, 80)
PAIR = TrainingRow(EncodedPair("it", tuple(IDS), ((5, 6, 7, 8, 9, 3, 4), (5, 9, 10)), "u"), (0, 0))
HYBRID = sorted(archs.HYBRIDS)
UNSHARED = ["deepseek_v32", "longcat_flash_ngram"]  # they keep more than keys, values and states
WHOLE = Plan(4, False, 2**28)
PLANS = {
    "whole": WHOLE,
    "checkpointed": replace(WHOLE, recompute=True),
    "in pieces": replace(WHOLE, piece=256),
    "both": replace(WHOLE, recompute=True, piece=256),
}


def opened(model: Any) -> LanguageModel:
    return LanguageModel(model, None, Path("."), "it", "", None)


def checked(model: Any) -> Paths:
    return find_paths(opened(model), some_rows(IDS))[0]


def narrow(model: Any, bits: int) -> Any:
    """The model in bf16, its layers of ``bits`` bits where these are few."""
    model.set_dtype(mx.bfloat16)
    if bits < 16:
        nn.quantize(
            model,
            32,
            bits,
            class_predicate=lambda _, m: (
                hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0
            ),
        )
    return model


@pytest.mark.parametrize("name", sorted([*archs.ARCHS, *archs.MORE_ARCHS]))
def test_models_with_plain_attention_pass(name: str) -> None:
    assert checked(archs.build(name)) == EVERY_PATH


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "olmo2", "qwen3_moe"])
def test_rounding_is_no_fault(
    name: str, copies: bool, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "qwen3_moe" and bits == 16 and lm_head.on_cpu():
        pytest.skip("MLX has no product of gathered matrices in bf16 on a CPU")
    monkeypatch.setattr(precision, "_copy_fits", lambda model: copies)
    assert checked(narrow(archs.build(name), bits)) == EVERY_PATH


_mask, _offset = Layout.mask, GrowingCache.offset


def one_ahead(self: Layout, held: int, new: int, window: int | None = None) -> mx.array:
    """Every token sees the next one too."""
    key = self.positions(held + new)[:, None, :]
    query = self.base[:, None] + mx.arange(held - self.shared, held - self.shared + new)
    return (key <= query[:, :, None] + 1)[:, None]


def without_first(self: Layout, held: int, new: int, window: int | None = None) -> mx.array:
    """The first token is hidden."""
    seen = _mask(self, held, new, window)
    return seen & (self.positions(held + new) > 0)[:, None, None, :]


def moved(self: GrowingCache) -> int | mx.array:
    """Positions behind a fork are off by one."""
    where: int | mx.array = _offset.fget(self)  # type: ignore[attr-defined]
    return where if self.layout is None else where + 1


def uncapped(self: lm_head.Parts, hidden: mx.array) -> mx.array:
    """Gemma 2's head without its soft cap."""
    logits: mx.array = self.model.model.embed_tokens.as_linear(hidden)
    return logits


FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "mask sees ahead": (Layout, "mask", one_ahead, "shares"),
    "mask hides the first": (Layout, "mask", without_first, "shares"),
    "positions off by one": (GrowingCache, "offset", property(moved), "shares"),
    "soft cap dropped": (lm_head.Parts, "logits", uncapped, "splits"),
}


@pytest.mark.parametrize(
    ("name", "bits", "copies"),
    [
        ("gemma2", 32, True),
        *((name, 4, copies) for name in ("gemma2", "qwen3_moe") for copies in (True, False)),
        *(("gemma2", 16, copies) for copies in (True, False)),
    ],
)
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_wrong_path_is_caught_in_every_precision(
    name: str, fault: str, copies: bool, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, attribute, wrong, given_up = FAULTS[fault]
    if name == "qwen3_moe" and given_up == "splits":
        pytest.skip("it has no soft cap")
    model = archs.build(name)
    model = model if bits == 32 else narrow(model, bits)
    monkeypatch.setattr(precision, "_copy_fits", lambda model: copies)
    monkeypatch.setattr(place, attribute, wrong)
    paths = checked(model)
    assert not getattr(paths, given_up)
    assert "off by" in dict(paths.reasons)[given_up]


def rows_of(bits: int, name: str = "llama") -> LanguageModel:
    model = archs.build(name)
    return opened(with_lora(model=model if bits == 32 else narrow(model, bits)))


def trained(lm: LanguageModel, plan: Plan) -> Paths:
    return training_check.find_paths(lm, [PAIR], TrainConfig(), plan)[0]


@pytest.mark.parametrize("bits", [32, 16, 4])
@pytest.mark.parametrize("plan", sorted(PLANS))
def test_plans_pass_in_every_precision(plan: str, bits: int) -> None:
    assert trained(rows_of(bits), PLANS[plan]) == EVERY_PATH


@pytest.mark.parametrize("name", ["qwen3_moe", "gemma2"])
def test_plans_pass_in_four_bits(name: str) -> None:
    assert trained(rows_of(4, name), PLANS["both"]) == EVERY_PATH


@pytest.mark.parametrize("bits", [32, 16, 4])
@pytest.mark.parametrize(
    ("plan", "feature"), [("checkpointed", "checkpoints"), ("in pieces", "pieces")]
)
def test_a_wrong_gradient_is_caught_and_its_cause_given_up(
    plan: str, feature: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a right loss: nothing but a gradient tells."""

    def wrong(model: Any, forest: Any, loss: Any, **how: Any) -> Any:
        figures, grads = loss_gradient(model, forest, loss, **how)
        if how["recompute"] or how.get("trunk"):
            grads["model"]["layers"][0]["self_attn"]["q_proj"]["lora_b"] *= 0.5
        return figures, grads

    monkeypatch.setattr(step, "loss_gradient", wrong)
    lm = rows_of(bits)
    paths = trained(lm, PLANS[plan])
    assert paths == replace(EVERY_PATH, **{feature: False}, reasons=paths.reasons)
    lm.paths = paths
    assert "gradients are off by" in told(lm)
    assert trained(lm, PLANS[plan]) == paths  # and what is left passes


def test_answers_that_begin_alike_do_not_cancel() -> None:
    for responses in (((5, 6, 7), (5, 6)), ((5, 6, 6), (5, 6)), ((5, 6, 1), (5, 6, 2))):
        row = replace(PAIR, encoded=replace(PAIR.encoded, responses=responses))
        for short in training_check.short_rows([row]):
            chosen, rejected = short.encoded.responses
            assert chosen and rejected and chosen != rejected


@pytest.mark.parametrize("name", HYBRID)
def test_models_with_states_give_nothing_up(name: str) -> None:
    lm = opened(with_lora(name))
    lm.paths = find_paths(lm, some_rows(IDS))[0]
    assert lm.paths == EVERY_PATH
    for plan in PLANS.values():
        assert trained(lm, plan) == EVERY_PATH


@pytest.mark.parametrize("name", UNSHARED)
def test_models_with_other_states_train_on_whole_rows(name: str) -> None:
    lm = opened(with_lora(name))
    lm.paths = find_paths(lm, some_rows(IDS))[0]
    assert not lm.shares and lm.splits and lm.paths.sampling == "own"
    assert "whole prompt" in told(lm) and "one at a time" in told(lm)
    assert trained(lm, WHOLE) == lm.paths
    model, rows = lm.model.train(), ragged(2)
    margin, wanted = by_rows(model, rows)
    for recompute in (False, True):
        figures, grads = loss_gradient(
            model, alone(rows), contrast, budget=SMALL, recompute=recompute
        )
        np.testing.assert_allclose(np.array(figures["margin"]), np.array(margin), atol=2e-4)
        assert relative(grads, wanted) < 5e-5  # recurrences add their own rounding
    found = [value for values in score(lm, rows) for value in values]
    np.testing.assert_allclose(found, np.array(plain(model, rows)), atol=2e-4)
    tokens = [values.sum() for answers in score_tokens(lm, rows) for values in answers]
    np.testing.assert_allclose(tokens, found, atol=2e-4)


def jobs(count: int) -> list[Job]:
    rng = np.random.default_rng(4)
    stem = tuple(int(t) for t in rng.integers(3, 250, 7))
    made = []
    for index in range(count):
        rest = tuple(int(t) for t in rng.integers(3, 250, rng.integers(1, 9)))
        shared = index % 3 > 0
        prompt = stem + rest if shared else rest
        made.append(Job(f"job{index}", prompt, "a" if shared else "", rest))
    return made


@pytest.mark.parametrize("sampling", ["own", "whole"])
@pytest.mark.parametrize("contrast", [0.0, 0.5])
def test_what_is_sampled_does_not_depend_on_how(
    tmp_path: Path, sampling: str, contrast: float
) -> None:
    lm = archs.opened(tmp_path / "mistral", "mistral")
    how = Sampling(max_tokens=9, seed=3, batch_size=4, contrast=contrast, temperature=0.7)
    shared = dict(respond(lm, jobs(10), how))
    lm.paths = Paths(shares=False, sampling=sampling)
    assert dict(respond(lm, jobs(10), how)) == shared
    assert dict(respond(lm, jobs(10)[::-1], replace(how, batch_size=0))) == shared


@pytest.mark.parametrize("name", HYBRID)
def test_models_with_other_states_sample_as_stock_does(name: str, tmp_path: Path) -> None:
    from mlx_lm.generate import generate_step

    lm = archs.opened(tmp_path / name, name)
    lm.paths = Paths(shares=False, sampling="own")
    greedy = Sampling(temperature=0.0, max_tokens=8, batch_size=3)
    found = dict(respond(lm, jobs(5), greedy))
    for job in jobs(5):
        steps = generate_step(mx.array(job.prompt_ids), lm.model, max_tokens=8)
        stock = [int(token) for token, _ in steps]
        end = stock.index(2) + 1 if 2 in stock else len(stock)
        assert list(found[job.key].token_ids) == stock[:end]


def test_a_forest_that_shares_nothing_says_the_same() -> None:
    model, rows = archs.build("llama"), ragged(3)
    one, other = (sequence_logprobs(model, forest) for forest in (alone(rows), plant(rows)))
    np.testing.assert_allclose(np.array(one), np.array(other), atol=2e-4)
    single = [Row((7,), ((8, 9), (3,)))]
    np.testing.assert_allclose(
        np.array(sequence_logprobs(model, alone(single))), np.array(plain(model, single)), atol=2e-4
    )


def with_call(name: str, call: Callable[..., mx.array]) -> Any:
    """A model whose own ``__call__`` is another; ``call(plain, tokens, cache)``."""
    model = archs.build(name)
    own = type(model).__call__

    class Other(type(model)):  # type: ignore[misc]
        def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
            return call(lambda tokens, cache: own(self, tokens, cache=cache), inputs, cache)

    model.__class__ = Other
    return model


def test_a_head_that_cannot_be_run_apart_is_run_whole() -> None:
    def call(own: Any, tokens: mx.array, cache: Any) -> mx.array:
        shift = 0.5 * mx.cos(tokens.astype(mx.float32))[..., None]
        return own(tokens, cache) * (1 + shift)  # type: ignore[no-any-return]

    lm = opened(with_call("llama", call))
    lm.paths = find_paths(lm, some_rows(IDS))[0]
    assert lm.shares and not lm.splits and lm.paths.sampling == "shared"
    assert "at once (log-probs are off by" in told(lm)


def test_a_model_that_forgets_its_cache_is_forwarded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = archs.build("llama")
    backbone = type(model.model)
    whole = backbone.__call__

    def forgetful(self: Any, inputs: mx.array, cache: Any = None, *args: Any) -> mx.array:
        return whole(self, inputs, None, *args)

    monkeypatch.setattr(backbone, "__call__", forgetful)
    paths = checked(model)
    assert not paths.shares and paths.splits and paths.sampling == "whole"


def kimi() -> Any:
    """A wrapper that passes an inner model's backbone on, and does not use it."""
    module = importlib.import_module("mlx_lm.models.kimi_k25")
    text = {
        "vocab_size": archs.VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "rope_scaling": None,
        "max_position_embeddings": 512,
    }
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({"text_config": text}))
    model.update(
        nn.utils.tree_map(
            lambda a: a + 0.15 * mx.random.normal(a.shape) if a.dtype == mx.float32 else a,
            model.parameters(),
        )
    )
    return model.eval()


def test_the_head_is_that_of_the_module_that_owns_the_backbone() -> None:
    model = kimi()
    tokens = mx.array([list(IDS)])
    parts = lm_head.parts(model)
    assert parts is not None and parts.model is model.language_model
    logits = parts.logits(parts.hidden(tokens, None))
    np.testing.assert_allclose(np.array(logits), np.array(model(tokens)), atol=1e-5)
    assert checked(model) == EVERY_PATH
    rows = ragged(2)
    found = [value for values in score(opened(model), rows) for value in values]
    np.testing.assert_allclose(found, np.array(plain(model, rows)), atol=2e-4)


class NeedsMask(nn.Module):
    """A backbone that must be given more than tokens and caches."""

    def __call__(self, tokens: mx.array, mask: Any, cache: Any = None) -> mx.array:
        return tokens


def test_no_head_is_found_where_the_backbone_needs_more_than_tokens() -> None:
    model = nn.Module()
    model.transformer = NeedsMask()
    assert lm_head.parts(model) is None
    assert lm_head.parts(object()) is None


def test_a_model_that_gives_no_numbers_is_told() -> None:
    model = archs.build("llama")
    model.model.norm.weight = model.model.norm.weight * float("nan")
    with pytest.raises(ModelError, match="it: log-probs of a plain sentence are not finite"):
        checked(model)


def test_a_model_that_fails_is_told_with_its_own_words() -> None:
    def call(own: Any, tokens: mx.array, cache: Any) -> mx.array:
        raise KeyError("no kernel for this")

    with pytest.raises(ModelError, match=r"it: plain log-probs cannot be had: KeyError.*no kernel"):
        checked(with_call("llama", call))


def test_a_random_model_is_told() -> None:
    def call(own: Any, tokens: mx.array, cache: Any) -> mx.array:
        logits = own(tokens, cache)
        return logits + mx.random.normal(logits.shape)  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="other numbers each time") as caught:
        checked(with_call("llama", call))
    assert "tried with and without shared prompts" in caught.value.hint


def test_a_plan_in_words_of_what_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    lm = opened(None)
    assert told(lm) == ""
    reasons = (("shares", "because"), ("sampling", "because"), ("splits", "it is so"))
    lm.paths = Paths(shares=False, splits=False, sampling="own", reasons=reasons)
    assert told(lm) == (
        "it: every answer is forwarded with its whole prompt and answers are sampled one at a time "
        "(because); logits of all positions are held at once (it is so)"
    )
    with caplog.at_level("WARNING", logger="mipo_mlx"):
        compat_check.tell("a line of this test")
        compat_check.tell("a line of this test")
    assert [record.getMessage() for record in caplog.records] == ["a line of this test"]
