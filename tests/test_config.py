"""Layers, ranges, TOML, and what a typo says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mipo_mlx.config import (
    EMBEDDED_MISSING,
    EMBEDDED_PRESET,
    SECTIONS,
    RunConfig,
    all_options,
    parse_set,
    read_toml,
    resolve,
    saved_config,
    to_dict,
    to_toml,
)
from mipo_mlx.errors import ConfigError


def toml(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_option_is_unique_documented_and_has_a_default_in_range() -> None:
    fields = [field.name for cls in SECTIONS.values() for field in dataclasses.fields(cls)]
    assert len(fields) == len(set(fields)) == len(all_options())
    resolve(flags={name: item.default for name, (_, item, _) in all_options().items()})
    for name, (_, item, _) in all_options().items():
        assert item.metadata["help"].endswith((".", ")")), name
    assert set(EMBEDDED_PRESET) <= set(all_options())


def test_layers_win_in_order() -> None:
    assert resolve().train.learning_rate == EMBEDDED_PRESET["learning_rate"]
    assert resolve({"model": "some/model"}).train.learning_rate == 0.0  # by the model's size
    assert resolve({"learning_rate": 0.5}).train.learning_rate == 0.5
    assert resolve({"learning_rate": 0.5}, {"learning_rate": 0.25}).train.learning_rate == 0.25
    assert resolve({"seed": 3}, {"seed": None}).data.seed == 3


def test_a_sampling_preset_stands_below_what_is_given_by_name() -> None:
    paper = resolve(flags={"sampling": "paper"}).generate
    assert (paper.temperature, paper.top_p, paper.min_p) == (0.1, 0.9, 0.0)
    run = {"temperature": 0.7, "top_p": 0.95, "min_p": 0.05}  # what a run was last given
    again = resolve(run, {"sampling": "paper", "top_p": 0.8}).generate
    assert (again.temperature, again.top_p, again.min_p) == (0.1, 0.8, 0.0)
    assert resolve({"sampling": "paper", "temperature": 0.4}).generate.temperature == 0.4


def test_a_run_from_before_an_option_goes_on_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("beta = 0.2\n", encoding="utf-8")
    old = saved_config(tmp_path)
    assert old == {"beta": 0.2, "context_template": "bare", "min_p": 0.0, "drop_truncated": True}
    (tmp_path / "config.toml").write_text('context_template = "told"\n', encoding="utf-8")
    assert (saved_config(tmp_path) or {})["context_template"] == "told"
    assert saved_config(tmp_path / "none") is None
    assert resolve({"model": "some/model"}).generate.context_template != "bare"
    assert resolve().generate.context_template == "bare"  # the embedded model's


def test_a_configuration_goes_round_through_toml(tmp_path: Path) -> None:
    config = resolve(flags={"contexts": 'a "quoted" \\ path.jsonl', "beta": 0.3, "offline": True})
    assert resolve(read_toml(toml(tmp_path, to_toml(config)))) == config
    assert to_dict(RunConfig())["train"]["beta"] == 0.1


def test_toml_may_be_flat_or_in_sections(tmp_path: Path) -> None:
    flat = read_toml(toml(tmp_path, "beta = 1\nseed = 4\n"))
    assert flat == read_toml(toml(tmp_path, "[train]\nbeta = 1.0\n[data]\nseed = 4\n"))
    assert isinstance(flat["beta"], float)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("\nnegativs = 'random'\n", r"mine\.toml:2: unknown option 'negativs'", "'negatives'"),
        ("[train]\n\nbeta = 'high'\n", r"mine\.toml:3: beta must be float", "beta"),
        ("epochs = true\n", r"mine\.toml:1: epochs must be int", "Passes"),
        ("epochs = 1.5\n", r"mine\.toml:1: epochs must be int", "Passes"),
        ("beta = -1.0\n", r"mine\.toml:1: beta must be in 1e-06 to 100", "beta"),
        ("objective = 'both'\n", "must be one of context, prompt", "Raise I"),
        ("seed = \n", r"mine\.toml: not valid TOML: .*line 1", "docs/cli.md"),
        ("[[train]]\nbeta = 1\n", "unknown option 'train'", "options"),
    ],
)
def test_a_fault_in_toml_is_told_with_line_and_hint(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_toml(toml(tmp_path, text))
    assert hint in caught.value.hint


def test_all_faults_of_a_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_toml(toml(tmp_path, "betta = 1\nsead = 2\n"))
    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == ["1", "2"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path / "absent.toml")


def test_set_reads_the_type_of_the_option() -> None:
    assert parse_set("beta=1") == ("beta", 1.0)
    assert parse_set("train.max-steps = 5") == ("max_steps", 5)
    assert parse_set("contexts=12") == ("contexts", "12")
    assert parse_set("offline=true") == ("offline", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("beta", "no '='"), ("bet=1", "unknown option 'bet'"), ("beta=x", "must be float")],
)
def test_set_refuses(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_set(text)
    assert caught.value.hint


def test_values_out_of_range_are_refused_whatever_their_source() -> None:
    with pytest.raises(ConfigError, match="seed must be in 0"):
        resolve(flags={"seed": -1})
    with pytest.raises(ConfigError, match="beta must be in"):
        resolve(flags={"beta": float("nan")})


def test_missing_negatives_are_trained_more_gently_on_the_embedded_model() -> None:
    gentle = resolve(flags={"negatives": "missing"}).train
    assert gentle.learning_rate == EMBEDDED_MISSING["learning_rate"] < resolve().train.learning_rate
    assert gentle.epochs == EMBEDDED_MISSING["epochs"]
    assert gentle.beta == EMBEDDED_PRESET["beta"]
    assert resolve({"negatives": "missing"}, {"epochs": 5}).train.epochs == 5
    other = resolve(flags={"negatives": "missing", "model": "some/model"}).train
    assert other == resolve(flags={"model": "some/model"}).train
