"""Small inputs for whole runs, cut from the samples in the package."""

from __future__ import annotations

from pathlib import Path

from mipo_mlx import tiny


def head(name: str, count: int, folder: Path) -> str:
    """A file with the first lines of a packaged sample."""
    lines = (tiny.SAMPLES_DIR / name).read_text(encoding="utf-8").splitlines()[:count]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
