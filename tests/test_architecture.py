"""The house rules that a reader could check: import direction, sizes, who may print."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from floors import FLOORS, HEIGHT, MODULES, ROOT, arrows, imports, name_of, part_of

ADAPTERS = ("inference", "models")  # who knows mlx-lm
NO_MLX = ("config", "data", "errors", "grading", "mipo_cli", "recipes", "stats", "types")


def test_imports_go_down_only() -> None:
    """Every part stands on a floor, and imports parts of lower floors alone."""
    up = {arrow: by for arrow, by in arrows().items() if HEIGHT[arrow[0]] <= HEIGHT[arrow[1]]}
    assert not up
    parts = {part_of(name_of(path)) for path in MODULES} - {""}
    assert parts == {part for floor in FLOORS for part in floor}


def test_few_modules_stand_flat_at_the_top() -> None:
    assert len(list((ROOT / "mipo_mlx").glob("*.py"))) <= 6


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_slow_imports_wait_and_stay_in_one_place(path: Path) -> None:
    name = name_of(path)
    for module, at_top in imports(path):
        package = module.split(".")[0]
        if package in ("mlx_lm", "transformers", "tokenizers"):
            assert not at_top, f"{name} imports {module} when it is imported"
            assert part_of(name) in ADAPTERS or name == "mipo_mlx.tiny.pretrain", name
        if package == "matplotlib":
            assert not at_top and name == "mipo_mlx.reporting.plots", f"{name} imports {module}"
        if package == "mlx":
            assert part_of(name) not in NO_MLX, f"{name} imports mlx"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60, f"{name_of(path)}.{node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_never_prints_nor_reads_the_command_line(path: Path) -> None:
    name = name_of(path)
    if name.startswith("mipo_cli") or name == "mipo_mlx.tiny.pretrain":  # a script of its own
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id in ("print", "input")), name
        assert not (isinstance(node, ast.Attribute) and node.attr in ("argv", "stdout")), name


def test_every_module_says_what_it_is_for() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
