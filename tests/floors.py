"""The import law of the library as floors; ``python tests/floors.py`` prints floors and arrows.

A part (a package, or a module at the top) may import parts of lower floors only. What stands on one
floor knows nothing of its neighbours.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = (  # from below
    ("_blas", "errors", "types"),
    ("config", "core", "grading", "results", "run_dir", "stats"),
    ("data", "recipes", "tiny"),
    ("models",),
    ("inference",),
    ("generation", "training"),
    ("bench", "evaluation", "reporting"),
    ("pipeline",),
    ("mipo_cli",),
)
HEIGHT = {part: height for height, floor in enumerate(FLOORS) for part in floor}
MODULES = sorted([*(ROOT / "mipo_mlx").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


def name_of(path: Path) -> str:
    """Dotted name of a module."""
    parts = path.relative_to(ROOT / "cli" if "mipo_cli" in path.parts else ROOT).with_suffix("")
    return ".".join(part for part in parts.parts if part != "__init__")


def part_of(module: str) -> str:
    """The part of the house that a module belongs to; "" for the library's own ``__init__``."""
    package, _, rest = module.partition(".")
    return package if package == "mipo_cli" else rest.partition(".")[0]


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


def arrows() -> dict[tuple[str, str], list[str]]:
    """Imports from one part to another, each with the modules that make them."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in MODULES:
        name = name_of(path)
        for module, _ in imports(path):
            here, there = part_of(name), part_of(module)
            ours = module.startswith(("mipo_mlx.", "mipo_cli")) and there in HEIGHT
            if ours and here and here != there:
                found[here, there].append(name)
    return found


def main() -> None:
    """Print floors from above, and which parts each part imports."""
    every = arrows()
    for height in reversed(range(len(FLOORS))):
        print(f"floor {height + 1}")
        for part in FLOORS[height]:
            below = sorted({to for start, to in every if start == part})
            print(f"  {part:<12}{' '.join(below)}")
    print(f"{len(FLOORS)} floors, {len(every)} arrows")


if __name__ == "__main__":
    main()
