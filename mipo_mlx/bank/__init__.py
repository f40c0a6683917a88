"""Texts for those who have none of their own: 200 everyday prompts, written for this project."""

from __future__ import annotations

from pathlib import Path

PROMPTS = Path(__file__).parent / "everyday.txt"
