"""Errors a user can mend: what is wrong, where, and a hint."""

from __future__ import annotations


class MipoError(Exception):
    """A fault of input, options or environment, with the likely mend.

    Args:
        message: what is wrong, what was received, what is allowed; with ``file:line`` where known.
        hint: what the user can do about it; empty when there is nothing to add.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class DataError(MipoError):
    """A file of contexts, prompts or pairs cannot be used as it stands."""


class ConfigError(MipoError):
    """An option, a TOML file or a run directory contradicts itself or the allowed ranges."""


class ModelError(MipoError):
    """A model folder or hub id cannot be opened, or cannot do what is asked of it."""
