"""The embedded model and the synthetic world it was trained in."""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
SAMPLES_DIR = Path(__file__).parent / "samples"
