"""Small models, and no run-time compiler."""

from __future__ import annotations

from lm.conftest import llama_folder, lm

__all__ = ["llama_folder", "lm"]
