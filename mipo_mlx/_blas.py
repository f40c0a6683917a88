"""OpenBLAS for MLX on Linux CPUs.

MLX's Linux wheel brings a reference BLAS. Where OpenBLAS is installed, loading it into the global
symbol scope first makes matrix products several times faster.
"""

from __future__ import annotations

import ctypes
import sys


def load_openblas() -> bool:
    """Put OpenBLAS before MLX's own BLAS. Linux only, silent; call it before ``import mlx.core``.

    Returns:
        True when OpenBLAS was found and loaded.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
