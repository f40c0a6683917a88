"""The memory budget on devices that say more or less about themselves."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mipo_mlx.models.memory import device_bytes, limit_bytes

MEMINFO = Path("/proc/meminfo")


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        ({"max_recommended_working_set_size": 12 * 2**30, "memory_size": 16 * 2**30}, 12 * 2**30),
        ({"memory_size": 16 * 2**30}, 16 * 2**30),
        ({"total_memory": 80 * 2**30}, 80 * 2**30),
    ],
)
def test_the_device_is_asked(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, int], wanted: int
) -> None:
    monkeypatch.setattr(mx, "device_info", lambda: info)
    assert device_bytes() == wanted
    assert limit_bytes(0) == int(0.7 * wanted)
    assert limit_bytes(1.5) == 1.5 * 2**30


@pytest.mark.skipif(not MEMINFO.exists(), reason="only Linux tells its memory in this file")
def test_a_device_that_says_nothing_has_the_machines_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mx, "device_info", dict)
    kilobytes = int(MEMINFO.read_text().split()[1])
    assert device_bytes() == pytest.approx(kilobytes * 1024, rel=0.02)
