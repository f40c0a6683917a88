"""The house rules that a reader could check: import direction, sizes, who may print."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "mipo_mlx").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
FOUNDATION = {
    "mipo_mlx",
    *(f"mipo_mlx.{name}" for name in ("_blas", "types", "errors", "options", "config")),
}
STEPS = {"generate", "train", "evaluate", "compare", "report"}
# part -> parts of the library that it may import, besides the foundation and itself
MAY: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "options": set(),
    "config": set(),
    "_blas": set(),
    "core": set(),
    "tiny": {"data"},
    "data": {"core"},
    "lm": {"core", "data", "tiny"},
    "reference": {"core", "data", "lm"},
    "generate": {"core", "data", "lm", "reference"},
    "objectives": {"core", "data", "lm"},
    "ranks": set(),
    "track": set(),
    "doctor": {
        *("bench", "data", "generate", "inputs", "lm", "machine", "objectives", "pairing", "plan"),
    },
    "bench": {
        *("core", "data", "lm", "machine", "models", "objectives", "plan", "reference", "step"),
    },
    "models": {"lm"},
    "plan": {"data", "lm", "objectives"},
    "step": {"lm", "objectives", "plan", "ranks"},
    "train": {"data", "lm", "objectives", "plan", "ranks", "step"},
    "fit": {
        *("data", "lm", "objectives", "plan", "ranks", "reference", "step", "store", "track"),
        *("train", "withhold"),
    },
    "withhold": {"data", "objectives"},
    "evaluate": {"core", "data", "lm", "generate", "reference"},
    "study": {"evaluate", "generate", "inputs", "lm", "reference"},
    "extraction": {"core", "data", "lm", "reference"},
    "attacks": {"extraction", "generate", "lm", "study"},
    "memorize": {
        *("attacks", "compare", "core", "data", "extraction", "inputs", "lm", "report", "study"),
        "withhold",
    },
    "tasks": {
        *("core", "data", "lm", "evaluate", "generate", "inputs", "reference", "report", "study"),
    },
    "controls": {
        *("compare", "evaluate", "generate", "inputs", "lm", "report", "study"),
    },
    "verdicts": {"compare", "core", "data", "evaluate", "study"},
    "judge": {
        *("data", "evaluate", "generate", "inputs", "lm", "study", "verdicts"),
    },
    "exam": {
        *("compare", "data", "evaluate", "generate", "inputs", "lm", "memorize", "reference"),
        *("controls", "diversity", "judge", "retention", "store", "study", "tasks"),
    },
    "diversity": {
        *("core", "data", "evaluate", "figures", "generate", "inputs", "lm", "parts", "study"),
    },
    "figures": {"compare", "evaluate", "report"},
    "parts": {"evaluate", "generate", "study"},
    "distraction": {
        *("bank", "data", "evaluate", "figures", "generate", "lm", "parts", "reference", "study"),
    },
    "retention": {
        *("bank", "core", "data", "distraction", "evaluate", "figures", "generate", "inputs", "lm"),
        *("parts", "reference", "study"),
    },
    "compare": {"core", "evaluate", "report"},
    "report": {"core", "data"},
    "machine": set(),
    "evidence": {"recipes"},
    "plots": set(),
    "page": {"data", "evidence", "plots", "report"},
    "bank": set(),
    "nearest": {"data", "lm", "generate", "reference"},
    "pairing": {"data", "lm", "generate", "inputs", "nearest", "reference"},
    "trial": {"data", "lm", "generate", "pairing", "reference"},
    "inputs": {"bank", "data", "lm", "tiny"},
    "preview": {"data", "inputs", "lm"},
    "store": {"machine"},
    "pipeline": {
        *("core", "data", "lm", "inputs", "store", "reference", "pairing", "fit", "exam"),
        *("evidence", "page", "withhold", *STEPS),
    },
    "beside": {"compare", "controls", "core", "evaluate", "store"},
    "siblings": {"beside", "pipeline", "reference", "store"},
    "arena": {"core", "data", "store"},
    "recipes": set(),
    "reproduce": {"pipeline", "recipes", "reference", "store"},
    "rehearse": {
        *("data", "doctor", "generate", "inputs", "lm", "pairing", "recipes", "reproduce", "tasks"),
    },
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "cli" if "mipo_cli" in path.parts else ROOT).with_suffix("")
    return ".".join(part for part in parts.parts if part != "__init__")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules imported, and whether at the top level of the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(tree.body)
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found += [(module, node in top)]
            found += [(f"{module}.{alias.name}", node in top) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    name = name_of(path)
    for module, _ in imports(path):
        if not module.startswith(("mipo_mlx", "mipo_cli")):
            continue
        if name.startswith("mipo_cli"):
            continue
        assert not module.startswith("mipo_cli"), f"{name} imports {module}"
        if module in FOUNDATION or any(
            module.startswith(f"{base}.") for base in FOUNDATION - {"mipo_mlx"}
        ):
            continue
        own = name.split(".")[1] if "." in name else ""
        part = module.split(".")[1]
        if own and part != own and part != "__version__":
            assert part in MAY[own], f"{name} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_slow_imports_wait_and_stay_in_one_place(path: Path) -> None:
    name = name_of(path)
    for module, at_top in imports(path):
        package = module.split(".")[0]
        if package in ("mlx_lm", "transformers", "tokenizers"):
            assert not at_top, f"{name} imports {module} when it is imported"
            assert (
                name.startswith(("mipo_mlx.lm", "mipo_mlx.models"))
                or name == "mipo_mlx.tiny.pretrain"
            ), name
        if package == "matplotlib":
            assert not at_top and name == "mipo_mlx.plots", f"{name} imports {module}"
        if package == "mlx":
            assert not name.startswith(("mipo_mlx.data", "mipo_cli")), f"{name} imports mlx"


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
