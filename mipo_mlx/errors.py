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


class DeviceError(MipoError):
    """The GPU, or the memory, gave up on work that was well formed."""


# what MLX's RuntimeError says when Metal's watchdog or its memory ended a command buffer
_WATCHDOG = ("ImpactingInteractivity", "Impacting Interactivity", "ErrorTimeout", "ErrorHang")
_MEMORY = (
    *("ErrorOutOfMemory", "Insufficient Memory", "Unable to allocate", "Attempting to allocate"),
    *("out of memory", "bad_alloc"),
)
_LESS = "a smaller --micro-batch-size, --prompt-piece 256 or a lower --memory-limit"


def device_error(error: BaseException) -> DeviceError | None:
    """What a fault of MLX's back end means for a user; None where it is of another kind.

    Args:
        error: as MLX raised it.
    """
    text = str(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _MEMORY)
    ):
        return DeviceError(
            f"The device ran out of memory ({text or 'MemoryError'}).",
            f"take {_LESS}, a smaller or quantized model, or close other programs; "
            "'mipo doctor' says what fits",
        )
    if not isinstance(error, RuntimeError):
        return None
    if any(sign in text for sign in _WATCHDOG):
        return DeviceError(
            f"macOS stopped the GPU's work because it held up the display ({text}).",
            f"take {_LESS}; or set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 in the environment, or let "
            "the display sleep meanwhile",
        )
    if "Command buffer execution failed" in text:
        return DeviceError(f"The GPU could not finish its work ({text}).", f"take {_LESS}")
    return None
