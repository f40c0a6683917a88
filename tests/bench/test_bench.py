"""``mipo bench``: what it counts, against the models themselves; what it leaves out, and tells."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from lm import archs
from mipo_mlx.bench import block, measure, rounds, subjects, work
from mipo_mlx.bench.results import BenchResult, StepRow, Timing
from mipo_mlx.errors import ConfigError, MipoError
from mipo_mlx.inference.prefix_tree import distinct_prefix_tokens
from mipo_mlx.models.random_weights import SHAPES, configuration, random_model
from mipo_mlx.pipeline.bench import BenchRequest, bench
from mipo_mlx.training.memory_model import Dimensions

# parameters as the models' cards have them
PARAMETERS = {
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
}


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, but where rounds are the matter."""
    if "rivals" not in request.node.name:
        monkeypatch.setattr(rounds, "MOST", 1)


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


def measured(**asked: Any) -> BenchResult:
    given = {"shapes": ("tiny",), "precisions": ("fp32",), "works": ("S1",), "minutes": 60.0}
    return bench(BenchRequest(**{**given, **asked}), silent)


@pytest.mark.parametrize("shape", sorted(PARAMETERS))
def test_shapes_have_the_parameters_of_the_real_models(shape: str) -> None:
    import importlib

    known = configuration(shape, "bf16")
    module = importlib.import_module(f"mlx_lm.models.{known['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(known))  # nothing of it is evaluated
    count = sum(array.size for array in dict(tree_flatten(model.parameters())).values())
    assert count == PARAMETERS[shape]
    guess = subjects.random(shape, "bf16").weights
    assert guess == pytest.approx(2 * PARAMETERS[shape], rel=0.002)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "4bit"])
def test_a_random_model_weighs_what_was_predicted(precision: str) -> None:
    lm = random_model("tiny", precision)
    size = sum(array.nbytes for array in dict(tree_flatten(lm.model.parameters())).values())
    assert size == pytest.approx(subjects.random("tiny", precision).weights, rel=0.01)
    logits = lm.model(mx.array([[5, 6, 7]]))
    assert np.isfinite(np.array(logits.astype(mx.float32))).all()
    assert (logits.dtype == mx.float32) == (precision == "fp32")


def test_flops_are_those_of_the_linear_layers() -> None:
    model = random_model("tiny", "fp32").model
    of = Dimensions.of(SHAPES["tiny"])
    linear = [m for layer in model.layers for m in layer.modules() if isinstance(m, nn.Linear)]
    blocks = sum(module.weight.size for module in linear)
    table = model.model.embed_tokens.weight.size
    assert work.step_flops(of, 100, 0) == 2 * 2 * 100 * blocks
    assert work.step_flops(of, 0, 7) == 2 * 2 * 7 * table


@pytest.mark.parametrize("name", sorted(work.WORKS))
def test_tokens_of_a_batch_are_those_of_its_prefixes(name: str) -> None:
    shape = work.WORKS[name]
    rows = [row.encoded for row in work.rows_of(shape, 1000)]
    full = [e.prompt_ids + side for e in rows for side in e.responses]
    assert distinct_prefix_tokens(full) == shape.distinct
    assert sum(len(ids) - 1 for ids in full) == shape.repeated
    tokens, answers = work.two_rows(work.rows_of(shape, 1000))
    assert tokens.shape == (2 * shape.pairs, len(full[0]))
    assert (np.array(tokens)[:, -shape.answer :] == np.array(answers)).all()


def test_a_small_bench_measures_everything_and_both_steps_agree() -> None:
    result = measured()
    assert result.skipped == []
    (sampled,), (step,) = result.sampling, result.steps
    assert sampled.tokens == 2 * 8 * 64
    assert sampled.prompt_tokens == 2 * 8 * (512 + 24)
    assert sampled.forwarded == 2 * 512 + 2 * 8 * 24
    assert step.plain is not None and step.distance is not None
    assert step.distance < 2e-5
    assert len(step.ours.seconds) == len(step.plain.seconds) >= 1
    assert step.ours.peak < step.plain.peak
    data = json.loads(json.dumps(block.plain_data(result)))
    ours, plain = (np.median(data["steps"][0][name]["seconds"]) for name in ("ours", "plain"))
    assert data["steps"][0]["speedup"] == pytest.approx(plain / ours)
    assert data["steps"][0]["share_of_matmul_rate"] == pytest.approx(step.flops / ours / step.rate)


def test_what_does_not_fit_memory_is_left_out_with_its_reason() -> None:
    weights = subjects.random("tiny", "fp32").weights
    none = measured(memory_limit=0.5 * weights / 2**30)
    assert none.steps == [] and none.sampling == []
    (only,) = none.skipped
    assert (only.model, only.what) == ("tiny", "all") and "more than the limit" in only.why
    roomy = measured()
    (row,) = roomy.steps
    assert row.plain is not None
    between = (row.ours.predicted + row.plain.predicted) / 2
    some = measured(memory_limit=between / 2**30)
    assert [item.what for item in some.skipped] == ["S1, plain step"]
    assert some.steps[0].plain is None and some.steps[0].distance is None
    assert "| - |" in block.markdown(some) and "S1, plain step: it would take" in block.markdown(
        some
    )


def test_what_takes_too_long_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "matmul_rate", lambda dtype, seconds: 1e9)
    result = measured(shapes=("qwen2.5-7b", "tiny"), memory_limit=100.0)
    assert [row.model for row in result.steps] == ["tiny"]
    assert "give more --minutes" in result.skipped[0].why


def test_running_out_of_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    monkeypatch.setattr(measure, "respond", fails)
    result = measured()
    assert result.sampling == [] and len(result.steps) == 1
    assert result.skipped[0].what == "sampling" and "ran out of memory" in result.skipped[0].why
    monkeypatch.setattr(measure, "respond", lambda *_: [][1])
    with pytest.raises(IndexError):
        measured()


def test_rivals_take_turns_and_are_warmed_up() -> None:
    calls: list[str] = []

    def rival(name: str) -> Any:
        return lambda: calls.append(name) or mx.array(len(calls))

    both = {"a": rival("a"), "b": rival("b")}
    found = rounds.in_turn(both, seconds=0.0)
    assert calls == ["a", "b"] * 2  # once to warm up, once in any case
    assert found.first["b"].item() == 2
    calls.clear()
    found = rounds.in_turn(both, seconds=60.0)
    assert calls == ["a", "b"] * (1 + rounds.MOST)
    assert len(found.timing("a").seconds) == rounds.MOST


def test_medians_and_ratios() -> None:
    ours, plain = Timing((1.0, 9.0, 2.0), 100), Timing((6.0, 4.0), 300)
    row = StepRow("m", "bf16", "S1", "plan", flops=8e9, rate=1e10, ours=ours, plain=plain)
    assert block.ratios(row) == {"speedup": 2.5, "memory_ratio": 3.0}
    assert row.share(ours) == pytest.approx(0.4)


def test_the_block_tells_nothing_private(tmp_path: Path) -> None:
    folder = archs.write(tmp_path / "a-private-name")
    result = measured(shapes=(), precisions=(), model=str(folder))
    text = block.markdown(result) + json.dumps(block.plain_data(result))
    known = archs.arguments("llama")
    assert f"llama {known['hidden_size']}x{known['num_hidden_layers']}" in text
    assert (result.steps[0].distance or 0.0) < 2e-5
    for private in ("a-private-name", str(tmp_path), str(Path.home()), socket.gethostname()):
        assert private not in text
    assert not (len(getpass.getuser()) > 4 and getpass.getuser() in text)
    assert mx.__version__ in text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"shapes": ("huge",)}, "'huge' is unknown"),
        ({"precisions": ("3bit",)}, "'3bit' is unknown"),
        ({"works": ("S9",)}, "'S9' is unknown"),
        ({"model": "embedded"}, "in place of --shape"),
        ({"model": "./nowhere", "shapes": (), "precisions": ()}, "not a model folder"),
    ],
)
def test_faults_are_told(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(MipoError, match=message) as error:
        measured(**asked)
    assert error.value.hint
    assert isinstance(error.value, ConfigError) or "model" in asked
