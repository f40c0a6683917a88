"""OpenBLAS for MLX on Linux CPUs.

MLX's Linux wheel brings a reference BLAS. Where OpenBLAS is installed, loading it into the global
symbol scope first makes matrix products several times faster.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from functools import cache

# Fedora's names of the builds with pthreads and with OpenMP stand before the name that is its
# serial build, and the only one elsewhere (Debian, Arch, openSUSE, conda).
LIBRARIES = ("libopenblasp.so.0", "libopenblaso.so.0", "libopenblas.so.0")
INSTALL = {
    "debian": "apt install libopenblas0-pthread",
    "fedora": "dnf install openblas-threads",
    "arch": "pacman -S openblas",
    "suse": "zypper install libopenblas_pthreads0",
}
log = logging.getLogger("mipo_mlx")


@cache
def load_openblas() -> bool:
    """Put OpenBLAS before MLX's own BLAS. Linux only, silent; call it before ``import mlx.core``.

    Returns:
        True when OpenBLAS was found and loaded.
    """
    if not sys.platform.startswith("linux"):
        return False
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def remedy() -> str:
    """The command that installs OpenBLAS on this system; empty where nothing is missing."""
    if not sys.platform.startswith("linux") or load_openblas():
        return ""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    for system in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if system in INSTALL:
            return INSTALL[system]
    return "install OpenBLAS (libopenblas.so.0)"


@cache
def warn_if_slow() -> None:
    """Say once that matrix products on this CPU are slow for want of OpenBLAS."""
    if command := remedy():
        log.warning("slow without OpenBLAS: %s", command)
