"""What an option is declared with."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare one option with its default, help text and allowed values (bounds inclusive)."""
    return field(
        default=default,
        metadata={"help": help, "choices": choices, "low": low, "high": high},
    )
