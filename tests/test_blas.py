"""Which library is loaded as OpenBLAS, and which command is named where there is none."""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from collections.abc import Iterator

import pytest

from mipo_mlx import _blas


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """What was loaded and said before stays out of a test, and the test out of the rest."""
    for function in (_blas.load_openblas, _blas.warn_if_slow):
        function.cache_clear()
    yield
    for function in (_blas.load_openblas, _blas.warn_if_slow):
        function.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, *present: str) -> list[tuple[str, int]]:
    """A Linux that has these libraries; returns what is loaded from it, as it happens."""
    loaded: list[tuple[str, int]] = []

    def load(name: str, mode: int = ctypes.DEFAULT_MODE) -> None:
        if name not in present:
            raise OSError(f"{name}: cannot open shared object file")
        loaded.append((name, mode))

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", load)
    return loaded


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["libopenblas.so.0"], "libopenblas.so.0"),  # Debian, Arch, openSUSE, conda
        (["libopenblas.so.0", "libopenblasp.so.0"], "libopenblasp.so.0"),  # Fedora, not the serial
        (["libopenblaso.so.0"], "libopenblaso.so.0"),
    ],
)
def test_every_name_is_found_and_threads_come_first(
    monkeypatch: pytest.MonkeyPatch, present: list[str], chosen: str
) -> None:
    loaded = install(monkeypatch, *present)
    assert _blas.load_openblas()
    assert loaded == [(chosen, ctypes.RTLD_GLOBAL)]
    assert _blas.remedy() == ""


def test_64_bit_indices_are_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install(monkeypatch, "libopenblas64.so.0", "libopenblas64_.so.0") == []
    assert not _blas.load_openblas()


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ({"ID": "debian"}, "apt install libopenblas0-pthread"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt install libopenblas0-pthread"),
        ({"ID": "fedora"}, "dnf install openblas-threads"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf install openblas-threads"),
        ({"ID": "manjaro", "ID_LIKE": "arch"}, "pacman -S openblas"),
        (
            {"ID": "opensuse-tumbleweed", "ID_LIKE": "opensuse suse"},
            "zypper install libopenblas_pthreads0",
        ),
        ({"ID": "nixos"}, "install OpenBLAS (libopenblas.so.0)"),
    ],
)
def test_the_remedy_is_the_systems_own(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str], command: str
) -> None:
    install(monkeypatch)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert _blas.remedy() == command


def test_a_mac_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = install(monkeypatch, *_blas.LIBRARIES)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not _blas.load_openblas() and _blas.remedy() == "" and loaded == []


def test_slowness_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "arch"})
    with caplog.at_level(logging.WARNING, "mipo_mlx"):
        _blas.warn_if_slow()
        _blas.warn_if_slow()
    (record,) = caplog.records
    assert record.getMessage().endswith("pacman -S openblas")
