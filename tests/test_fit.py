"""``mipo train`` on files: going on after a stop, kinds of adapters, losses, bad options."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from lm import archs
from mipo_mlx import pipeline, tiny
from mipo_mlx.config import TrainConfig, resolve, saved_config
from mipo_mlx.data.batches import EncodedPair, batches
from mipo_mlx.data.split import held_pairs
from mipo_mlx.errors import ConfigError, DataError, MipoError
from mipo_mlx.models.load import load_model
from mipo_mlx.pipeline.train import STATE
from mipo_mlx.training import defaults
from mipo_mlx.training.defaults import with_rate
from mipo_mlx.types import PreferencePair, Response
from samples import head, steady

TOKENS = mx.array([[5, 9, 33, 120, 7, 250, 64, 31, 18, 4]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with 24 pairs or a few less, two negatives each, and its options."""
    folder = tmp_path_factory.mktemp("made")
    options = {
        "contexts": head("contexts_train.jsonl", 6, folder),
        "prompts": head("prompts_train.jsonl", 5, folder),
        "held_out_users": 0.0,
        "held_out_prompts": 0.0,
        "prompts_per_context": 2,
        "num_negatives": 2,
        "min_pmi": -1000.0,
        "batch_size": 4,
        "epochs": 2,
        "beta": 0.1,
    }
    pipeline.generate.generate(folder / "run", resolve(flags=options))
    return folder / "run", options


def fresh(made: tuple[Path, dict[str, Any]], folder: Path) -> Path:
    """A run directory with the same pairs and nothing trained."""
    folder.mkdir()
    for name in ("pairs.jsonl", "manifest.json"):
        (folder / name).write_bytes((made[0] / name).read_bytes())
    return folder


def train(run: Path, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return pipeline.train.train(run, resolve(flags={**options, **more}))


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of a run, but for what differs from one run of the same to the next."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [steady(json.loads(line)) for line in lines]


def adapter_bytes(run: Path) -> bytes:
    return (run / "adapter" / "adapters.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, stop: int
) -> None:
    options = {**made[1], "validation": 0.3, "eval_every": 2, "epochs": 3}
    whole, run = fresh(made, tmp_path / "whole"), fresh(made, tmp_path / "run")
    stats = train(whole, options)
    assert stats["optimizer_steps"] > 5
    assert stats["pairs"] + stats["validation_pairs"] == len(
        (whole / "pairs.jsonl").read_text().splitlines()
    )

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage.startswith("train"):
            assert [line["step"] for line in metrics(run)] == list(range(1, done + 1))
            if done == stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.train.train(run, resolve(flags=options), interrupt)
    assert (run / STATE).stat().st_mode & 0o777 == 0o600
    assert not (run / "adapter").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == stop
    seen: list[int] = []
    again = resolve(saved_config(run), {"save_every": 2})  # the options are remembered
    pipeline.train.train(run, again, lambda stage, done, total: seen.append(done))
    assert seen[0] == stop + 1
    assert adapter_bytes(run) == adapter_bytes(whole)
    assert metrics(run) == metrics(whole)
    assert not (run / STATE).exists()


def test_a_killed_run_takes_steps_after_its_last_save_again_and_tells_them_once(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    options = {**made[1], "save_every": 2, "epochs": 3}
    whole, run = fresh(made, tmp_path / "whole"), fresh(made, tmp_path / "run")
    train(whole, options)
    kept: dict[str, bytes] = {}

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("train") and done == 3:  # saved after two steps, then killed
            kept.update({n: (run / n).read_bytes() for n in (STATE, "metrics.jsonl")})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.train.train(run, resolve(flags=options), stop)
    for name, data in kept.items():
        (run / name).write_bytes(data)
    assert len(metrics(run)) == 3
    train(run, options)
    assert metrics(run) == metrics(whole)
    assert adapter_bytes(run) == adapter_bytes(whole)


def test_validation_takes_whole_circles_of_users_who_meet() -> None:
    sides = (Response("a", (1,), "stop"), Response("b", (2,), "stop"))
    users = {"x": "abc", "y": "de", "z": "fgh"}
    pairs = [
        PreferencePair(f"{one}{other}", (), *sides, context_id=one, negative_context_id=other)
        for names in users.values()
        for one, other in zip(names, names[1:] + names[:1], strict=True)
    ]
    held = held_pairs(pairs, 0.3, 0)
    names = [
        {letter for pair, out in zip(pairs, held, strict=True) if out == side for letter in pair.id}
        for side in (False, True)
    ]
    assert not names[0] & names[1]
    assert any(names[1] == set(circle) for circle in users.values())


def test_a_rate_that_is_not_given_is_the_size_of_the_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = load_model("embedded")
    assert with_rate(lm, TrainConfig(learning_rate=0.5)).learning_rate == 0.5
    found = []
    for size in (1.35e8, 5e8, 3e9, 8e9):
        monkeypatch.setattr(defaults, "total_parameters", lambda model, size=size: size)
        found.append(with_rate(lm, TrainConfig()).learning_rate)
    assert found == [1e-4, 5e-5, 2e-5, 1e-5]


def test_a_state_of_another_training_or_cut_short_is_not_used(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, run = fresh(made, tmp_path / "whole"), fresh(made, tmp_path / "run")
    train(whole, made[1])

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.train.train(run, resolve(flags={**made[1], "learning_rate": 9e-3}), interrupt)
    train(run, made[1])
    assert adapter_bytes(run) == adapter_bytes(whole)
    cut = fresh(made, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        pipeline.train.train(cut, resolve(flags=made[1]), interrupt)
    data = (cut / STATE).read_bytes()
    (cut / STATE).write_bytes(data[: len(data) // 2])
    train(cut, made[1])
    assert adapter_bytes(cut) == adapter_bytes(whole)


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    good, bad = fresh(made, tmp_path / "good"), fresh(made, tmp_path / "bad")
    train(good, made[1])
    wanted = metrics(good)
    rows = [json.loads(line) for line in (bad / "pairs.jsonl").read_text().splitlines()]
    encoded = [
        EncodedPair(row["id"], (1,), ((1,), (1,)), row["context_id"], row["block"]) for row in rows
    ]
    plan = batches(encoded, 4, seed=0, epoch=0)
    rows[plan[1][0]]["ref_chosen_logps"] = math.nan  # of a pair of the second step
    (bad / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MipoError, match=f"not finite .* at pairs .*{rows[plan[1][0]]['id']}"):
        train(bad, made[1])
    arrays = mx.load(str(bad / STATE))
    assert all(bool(mx.isfinite(array).all()) for array in arrays.values())
    assert metrics(bad) == wanted[:1]


@pytest.mark.parametrize(
    "options",
    [
        {"fine_tune_type": "dora"},
        {"lora_modules": "q_proj,v_proj", "lora_layers": 2},
        {"rslora": True, "lora_rank": 4},
    ],
)
def test_every_kind_of_adapter_opens_in_stock_mlx_lm(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, options: dict[str, Any]
) -> None:
    from mlx_lm import load

    run = fresh(made, tmp_path / "run")
    stats = train(run, made[1], **options)
    assert stats["first"]["loss"] == pytest.approx(math.log(2), abs=2e-5)
    base = load_model("embedded").model(TOKENS)
    tuned = load_model("embedded", adapter_path=run / "adapter")
    wanted = tuned.model(TOKENS)
    stock, _ = load(str(tiny.MODEL_DIR), adapter_path=str(run / "adapter"))[:2]
    np.testing.assert_allclose(np.array(stock(TOKENS)), np.array(wanted), atol=1e-5)
    assert float(mx.abs(wanted - base).max()) > 1e-3
    weights = mx.load(str(run / "adapter" / "adapters.safetensors"))
    known = json.loads((run / "adapter" / "adapter_config.json").read_text())
    if "lora_modules" in options:
        assert {name.split(".")[-2] for name in weights} == {"q_proj", "v_proj"}
        assert {name.split(".")[2] for name in weights} == {"2", "3"}
    if "rslora" in options:
        assert known["lora_parameters"]["scale"] == pytest.approx(20.0 / 2)
    if "fine_tune_type" in options:
        assert any(name.endswith(".m") for name in weights)


def test_an_adapter_to_go_on_from_is_the_reference(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    first, second = fresh(made, tmp_path / "first"), fresh(made, tmp_path / "second")
    before = train(first, made[1])
    stats = train(second, made[1], adapter_path=str(first / "adapter"))
    assert stats["first"]["loss"] == pytest.approx(math.log(2), abs=2e-5)
    assert stats["first"]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert stats["first"]["logps/chosen"] != pytest.approx(
        before["first"]["logps/chosen"], abs=0.01
    )
    mine, theirs = (mx.load(str(run / "adapter/adapters.safetensors")) for run in (second, first))
    assert set(mine) == set(theirs)
    assert any(not mx.array_equal(mine[name], theirs[name]) for name in mine)
    with pytest.raises(MipoError, match="nowhere"):
        train(second, made[1], adapter_path=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("loss", ["mipo", "ipo", "hinge", "sft", "infonce", "sami"])
def test_every_loss_falls(made: tuple[Path, dict[str, Any]], tmp_path: Path, loss: str) -> None:
    run = fresh(made, tmp_path / "run")
    stats = train(run, made[1], loss=loss, epochs=4, learning_rate=1e-3, batch_size=24)
    assert stats["optimizer_steps"] >= 4
    if loss == "mipo":  # ln of candidates: one chosen, and one or two rejected that are left
        pairs = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
        counts = Counter((pair["context_id"], pair["prompt_id"]) for pair in pairs).values()
        wanted = sum(math.log(1 + count) for count in counts) / len(counts)
        assert stats["first"]["loss"] == pytest.approx(wanted, abs=1e-4)
    assert stats["last"]["loss"] < 0.98 * stats["first"]["loss"]


def test_losses_over_prompts_need_the_rejected_answers_prompts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Where?", "chosen": "Here.", "rejected": "There."},
        {"prompt": "When?", "chosen": "Now.", "rejected": "Then."},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="--loss sami needs the prompt") as caught:
        train(tmp_path / "run", {"pairs": str(path)}, loss="sami")
    assert "random" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"lora_modules": "q_proj,nothing"}, "no linear layer is called nothing", "down_proj"),
        ({"loss": "dpo"}, "loss", "sigmoid"),
    ],
)
def test_bad_options_are_told_and_nothing_is_trained(
    made: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
    hint: str,
) -> None:
    run = fresh(made, tmp_path / "run")
    with pytest.raises(ConfigError, match=message) as caught:
        train(run, made[1], **options)
    assert hint in caught.value.hint + caught.value.message
    assert not (run / "adapter").exists()


@pytest.mark.parametrize(("name", "shares"), [("lfm2", True), ("deepseek_v32", False)])
def test_a_model_with_other_states_trains_on_given_pairs(
    name: str, shares: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = archs.write(tmp_path / "model", name)
    rows = [
        {"prompt": f"What is {i}?", "chosen": "A number " * (1 + i), "rejected": "No."}
        for i in range(5)
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model": str(model), "pairs": str(pairs), "batch_size": 2, "learning_rate": 1e-3}
    with caplog.at_level("INFO", logger="mipo_mlx"):
        stats = train(tmp_path / "run", options, epochs=3)
    assert ("whole prompt" in caplog.text and "read back" in caplog.text) != shares
    assert "plan: 2 pairs at once" in caplog.text
    assert stats["last"]["rewards/margins"] > stats["first"]["rewards/margins"]
    assert stats["first"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert stats["peak_memory_bytes"] > 0 and stats["predicted_peak_bytes"] > 0
    assert (tmp_path / "run" / "adapter" / "adapters.safetensors").is_file()


def test_a_memory_limit_cuts_the_step_and_not_the_result(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, run = fresh(made, tmp_path / "whole"), fresh(made, tmp_path / "run")
    one = train(whole, made[1])
    limit = 0.6 * one["predicted_peak_bytes"] / 2**30
    caplog.clear()  # the first plan is of no interest, wherever the level of logging stood
    with caplog.at_level("INFO", logger="mipo_mlx"):
        two = train(run, made[1], memory_limit=limit)
    assert two["peak_memory_bytes"] < one["peak_memory_bytes"]
    assert "plan: 4 pairs at once" not in caplog.text or "checkpointed" in caplog.text
    mine, theirs = (
        mx.load(str(folder / "adapter" / "adapters.safetensors")) for folder in (whole, run)
    )
    gap = sum(float(((mine[name] - theirs[name]) ** 2).sum()) for name in mine)
    assert (gap / sum(float((mine[name] ** 2).sum()) for name in mine)) ** 0.5 < 1e-4
