"""Texts written for this project, for those who have too few of their own.

200 everyday prompts, and 64 invented users ("foils") whose contexts stand in as wrong ones; for
eval, 24 paragraphs about nobody and 24 requests that have nothing to do with a user.
"""

from __future__ import annotations

from pathlib import Path

PROMPTS = Path(__file__).parent / "everyday.txt"
FOILS = Path(__file__).parent / "foils.jsonl"
PARAGRAPHS = Path(__file__).parent / "paragraphs.txt"
NEUTRAL = Path(__file__).parent / "neutral.txt"
