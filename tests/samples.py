"""Small inputs for whole runs, cut from the samples in the package; figures that hold still."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipo_mlx import tiny
from mipo_mlx.training.trainer import NOISY

# no study of eval besides its main table
QUIET: dict[str, Any] = {
    **{"cad": "", "retention": False, "memorization": False, "diversity_samples": 0}
}


def head(name: str, count: int, folder: Path) -> str:
    """A file with the first lines of a packaged sample."""
    lines = (tiny.SAMPLES_DIR / name).read_text(encoding="utf-8").splitlines()[:count]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def steady(values: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a step without its time and memory."""
    assert set(NOISY) <= set(values)
    return {name: value for name, value in values.items() if name not in NOISY}
