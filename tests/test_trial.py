"""A look ahead agrees with the run it looks at, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mipo_cli.app import app
from mipo_mlx import pipeline, tiny
from mipo_mlx.config import resolve
from mipo_mlx.data.readers import read_pairs
from mipo_mlx.models.load import load_model
from mipo_mlx.pipeline import pilot


@pytest.fixture
def few(tmp_path: Path) -> dict[str, Any]:
    """24 users of the sample, two prompts each."""
    rows = (tiny.SAMPLES_DIR / "contexts_train.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    (tmp_path / "users.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {
        "contexts": str(tmp_path / "users.jsonl"),
        "prompts": str(tiny.SAMPLES_DIR / "prompts_train.jsonl"),
        "prompts_per_context": 2,
        "max_tokens": 24,
    }


def quiet(stage: str, done: int, total: int) -> None:
    pass


def test_a_dry_run_counts_what_the_run_does(few: dict[str, Any], tmp_path: Path) -> None:
    config = resolve(flags=few)
    ahead = pilot.dry_run(config, quiet)
    done = pipeline.generate.generate(tmp_path / "run", config)
    assert ahead["pairs"] == done["pairs"] + sum(done["dropped"].values())
    assert ahead["responses"] == done["responses"]
    assert ahead["prompt_tokens"]["ideal"] == done["prompt_tokens"]["ideal"]
    assert ahead["prompt_tokens"]["unshared"] == done["prompt_tokens"]["unshared"]
    assert ahead["response_tokens_at_most"] == 24 * done["responses"] > done["response_tokens"]
    assert 0 < ahead["minutes"] < 10
    lm = load_model("embedded")
    args = lm.model.args
    per_token = 2 * 4 * args.num_hidden_layers * args.num_key_value_heads * args.head_dim
    assert ahead["keys_and_values_bytes"] % per_token == 0
    assert ahead["keys_and_values_bytes"] // per_token > 24
    assert ahead["weights_bytes"] == pytest.approx(
        (lm.path / "model.safetensors").stat().st_size, rel=0.01
    )


def test_a_pilot_is_made_of_pairs_of_the_run(few: dict[str, Any], tmp_path: Path) -> None:
    config = resolve(flags=few)
    found = pilot.pilot(config, 20, quiet)
    assert 20 <= found["pairs"] + sum(found["dropped"].values()) < 20 + 16
    assert f"of {found['pairs']} pairs" in found["headroom"]
    pipeline.generate.generate(tmp_path / "run", config)
    values = [pair.pmi or 0.0 for pair in read_pairs(tmp_path / "run" / "pairs.jsonl")]
    assert min(values) <= found["pmi"]["p50"] <= max(values)


@pytest.mark.parametrize("words", [["--dry-run"], ["--pilot", "12"]])
def test_the_command_writes_nothing(few: dict[str, Any], tmp_path: Path, words: list[str]) -> None:
    run = tmp_path / "run"
    options = [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(app, ["generate", str(run), *options, *words])
    assert result.exit_code == 0, result.output
    assert "headroom" in result.stdout
    assert not run.exists()
