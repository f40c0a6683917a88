"""The suite runs with the network refused and, on a CPU, without MLX's compiler."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
# what is found out about models is kept for one run of the suite, by all of its workers
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"mipo-tests-{_RUN}")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("mipo_mlx.core", "beartype.beartype")  # shapes are checked as the tests run

import mipo_mlx  # noqa: F401  # before MLX, for it loads a fast BLAS

# isort: split

import mlx.core as mx
import pytest

if mx.default_device() == mx.Device(mx.cpu):
    mx.disable_compile()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection but a local socket is an error."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"the suite must not connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
