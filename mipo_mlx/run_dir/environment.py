"""Where something was made: platform, device, memory and versions of what has a say in it."""

from __future__ import annotations

import functools
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlx.core as mx

PACKAGES = ("mipo-mlx", "mlx", "mlx-lm", "transformers", "numpy", "huggingface-hub")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@functools.cache
def _versions() -> dict[str, str]:
    return {package: _version(package) for package in PACKAGES}


def here() -> dict[str, Any]:
    """This machine and its software; memory in bytes."""
    info = mx.device_info()
    name = info.get("device_name") or info.get("architecture") or platform.machine()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "device": f"{mx.default_device()}: {name}",
        "versions": dict(_versions()),
    }
