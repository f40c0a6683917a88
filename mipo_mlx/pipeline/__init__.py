"""What each subcommand does, a file a subcommand: from files to files."""

from __future__ import annotations

from mipo_mlx.pipeline import evaluate, generate, report, run, train

__all__ = ["evaluate", "generate", "report", "run", "train"]
