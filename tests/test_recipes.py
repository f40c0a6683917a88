"""The recipes say what they must, and hold what the paper and its code are known to have done."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from mipo_mlx import recipes
from mipo_mlx.config import resolve
from mipo_mlx.data.benchmarks import read_task
from mipo_mlx.data.hub import ADDRESS
from mipo_mlx.data.readers import read_contexts, read_prompts
from mipo_mlx.errors import ConfigError
from mipo_mlx.recipes import FIXTURES, Recipe

ALL = recipes.read_recipes()
CONTEXT = {"prism", "community-alignment", "multifaceted-bench"}
PROMPT = {"gsm8k", "svamp", "mmlu", "arc-easy", "arc-challenge"}
MODELS = {"llama-3.2-1b", "llama-3.2-3b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b"}


def each() -> Any:
    return pytest.mark.parametrize("recipe", ALL.values(), ids=lambda recipe: recipe.name)


def test_every_data_set_of_the_paper_has_a_recipe_with_every_model() -> None:
    assert set(ALL) == CONTEXT | PROMPT
    for recipe in ALL.values():
        assert {model.name for model in recipe.models} == MODELS
        assert recipe.objective == ("context" if recipe.name in CONTEXT else "prompt")
    gated = {m.name for m in ALL["prism"].models if m.access.startswith("gated")}
    assert gated == {"llama-3.2-1b", "llama-3.2-3b"}


@each()
def test_what_is_stated_unknown_and_chosen_stands_apart(recipe: Recipe) -> None:
    own = set()
    for statement in recipe.stated:
        assert statement.origin and not statement.why, statement.text
    for statement in recipe.chosen:
        assert statement.why and not statement.origin, statement.text
    for statement in recipe.unknown:
        assert not (statement.origin or statement.why or statement.options), statement.text
    for kind in (recipe.stated, recipe.unknown, recipe.chosen):
        assert kind
        for statement in kind:
            assert statement.text.endswith("."), statement.text
            assert statement.text not in own
            own.add(statement.text)
    for figure in recipe.reported:
        assert figure.origin and set(figure.models) <= MODELS


@each()
def test_options_are_those_of_the_paper_where_it_is_known(recipe: Recipe) -> None:
    config = resolve(toml={**recipe.options, "model": "owner/name"})
    train, generate = config.train, config.generate
    assert (train.loss, train.beta, train.epochs, train.batch_size) == ("sigmoid", 0.1, 1, 4)
    assert (train.schedule, train.warmup, train.max_grad_norm) == ("cosine", 0.03, 1.0)
    assert train.learning_rate >= 10 * 5e-7  # LoRA, not all weights
    assert generate.temperature == 0.1 and generate.min_pmi == -1000
    choices = recipe.name in {"mmlu", "arc-easy", "arc-challenge"}
    assert generate.top_p == (1.0 if choices else 0.9)
    short = recipe.name in {"prism", "community-alignment"}
    assert generate.max_tokens == (512 if short else 1024)
    if recipe.name in CONTEXT:
        assert generate.negatives == "missing"
    else:
        limits = {"gsm8k": 200, "svamp": 300}
        assert config.eval.task_limit == limits.get(recipe.name, 500)
        assert config.data.problem_prompts == config.eval.task_prompts == "paper"
        assert config.eval.task_max_tokens == 1024


def test_reported_figures_are_those_of_the_model_first() -> None:
    first = {name: ALL[name].reported_of("qwen2.5-1.5b")[0].text for name in ("prism", "gsm8k")}
    assert first["prism"].startswith("51%")
    assert first["gsm8k"].startswith("1 to 20%")
    base = ALL["gsm8k"].reported_of("llama-3.2-1b")[0]
    assert (base.metric, base.side, base.value) == ("tasks/gsm8k/accuracy", "base", 0.22)
    assert not any("22%" in item.text for item in ALL["gsm8k"].reported_of("llama-3.2-3b"))
    assert not any("51%" in item.text for item in ALL["prism"].reported_of("qwen2.5-7b"))


@each()
def test_files_are_addresses_of_the_hub_and_their_invented_rows_are_read(recipe: Recipe) -> None:
    uses = sorted(use for file in recipe.files for use in file.use)
    assert uses == (["contexts", "prompts"] if recipe.name in CONTEXT else ["prompts", "task"])
    texts: dict[str, set[str]] = {}
    for file in recipe.files:
        assert ADDRESS.fullmatch(file.address)
        (path,) = (FIXTURES / recipe.name).glob(f"{file.name}.*")
        for use in file.use:
            read: Any = {"contexts": read_contexts, "prompts": read_prompts}.get(use)
            found = read(path) if read else read_task(path, "ours")
            assert 12 <= len(found) <= 32
            texts[use] = {item.text for item in found}
            assert len(texts[use]) == len(found)  # none twice, so users may be held out
    if recipe.name in PROMPT:
        assert not texts["prompts"] & texts["task"]


def test_the_invented_sums_are_right() -> None:
    for path in (FIXTURES / "gsm8k").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            answer = json.loads(line)["answer"]
            for left, right in re.findall(r"<<([\d+*-]+)=(\d+)>>", answer):
                value = eval(left)
                assert value == int(right)
            assert answer.split("#### ")[1].replace(",", "") == str(value)
    for path in (FIXTURES / "svamp").glob("*.json"):
        for row in json.loads(path.read_text(encoding="utf-8")):
            assert eval(row["Equation"]) == Fraction(row["Answer"])
            assert row["Body"] in row["question_concat"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prsm/qwen2.5-1.5b", "did you mean 'prism/qwen2.5-1.5b'?"),
        ("gsm8k/qwen-1.5b", "did you mean 'gsm8k/qwen2.5-1.5b'?"),
        ("gsm", "did you mean 'gsm8k'?"),
        ("", "--list"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="is no recipe") as caught:
        recipes.find(name)
    assert hint in caught.value.hint


OWN = """title = "T"
objective = "prompt"
measures = []
"""


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[[stated]]\ntext = "a"\n[stated.options]\nbetta = 1.0', r"own.toml:7: .*'betta'", "beta"),
        ('[[stated]]\ntext = "a"\n[stated.options]\nbeta = -1.0', r"own.toml:7: beta must be", ""),
        ('[[stated]]\ntxt = "a"', "unknown key 'txt'", "did you mean 'text'?"),
        ('[[files]]\nname = "a"', "a datafile lacks a key", ""),
        ("tittle = 1", "unknown key 'tittle'", "did you mean 'title'?"),
        ("title = ", "not valid TOML", ""),
    ],
)
def test_a_faulty_recipe_is_told(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / recipes.COMMON).write_text(
        (recipes.FOLDER / recipes.COMMON).read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "own.toml").write_text(OWN + text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        recipes.read_recipe(tmp_path / "own.toml")
    assert hint in caught.value.hint
    (tmp_path / "own.toml").write_text(OWN.replace("prompt", "both"), encoding="utf-8")
    with pytest.raises(ConfigError, match="objective must be"):
        recipes.read_recipe(tmp_path / "own.toml")


def test_own_statements_win_over_common_ones_and_choices_over_statements(tmp_path: Path) -> None:
    (tmp_path / recipes.COMMON).write_text(
        'models = []\n[[stated]]\ntext = "a."\n[stated.options]\nbeta = 0.1\nepochs = 1\nseed = 1\n'
        '[[stated]]\nobjective = "context"\ntext = "b."\n[stated.options]\nmax_tokens = 7\n'
        '[[chosen]]\ntext = "c."\nwhy = "So."\n[chosen.options]\nepochs = 2\n',
        encoding="utf-8",
    )
    (tmp_path / "own.toml").write_text(
        OWN + '[[stated]]\ntext = "d."\norigin = "abstract"\n[stated.options]\nbeta = 0.5\n',
        encoding="utf-8",
    )
    recipe = recipes.read_recipe(tmp_path / "own.toml")
    assert recipe.options == {"objective": "prompt", "beta": 0.5, "epochs": 2, "seed": 1}
    assert recipe.origins["beta"] == (0.5, "stated: abstract")
    assert recipe.origins["epochs"] == (2, "chosen: So.")
