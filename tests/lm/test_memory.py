"""The memory budget on devices that say more or less about themselves, and what is set by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mipo_mlx.models.memory import (
    AllocatorLimits,
    allocator_limits,
    allocator_within,
    device_bytes,
    limit_bytes,
)

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


class Device:
    """A device of 16 GiB that remembers what its allocator was told last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, metal: bool) -> None:
        self.told = {"memory": 1, "cache": 2, "wired": 3}
        info = {"max_recommended_working_set_size": 16 * 2**30} if metal else {}
        monkeypatch.setattr(mx, "device_info", lambda: info)
        monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        monkeypatch.setattr(mx, "synchronize", lambda: None)
        for name in self.told:
            monkeypatch.setattr(mx, f"set_{name}_limit", self.setter(name))

    def setter(self, name: str) -> Callable[[int], int]:
        def told(size: int) -> int:
            before, self.told[name] = self.told[name], size
            return before

        return told


def test_on_metal_the_allocator_is_held_to_the_limit_and_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch, metal=True)
    with pytest.raises(KeyError), allocator_within(8.0):
        assert device.told == {"memory": 8 * 2**30, "cache": 2 * 2**30, "wired": 8 * 2**30}
        raise KeyError
    assert device.told == {"memory": 1, "cache": 2, "wired": 3}


def test_no_more_is_wired_than_metal_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch, metal=True)
    assert allocator_limits(20.0) == AllocatorLimits(20 * 2**30, 5 * 2**30, 16 * 2**30)


def test_other_gpus_have_nothing_to_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, metal=False)
    with allocator_within(8.0):
        assert device.told == {"memory": 8 * 2**30, "cache": 2 * 2**30, "wired": 3}


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="about CPUs")
def test_on_a_cpu_nothing_is_set() -> None:
    assert allocator_limits(8.0) is None
    before = mx.set_cache_limit(12345)
    try:
        with allocator_within(8.0):
            assert mx.set_cache_limit(12345) == 12345
    finally:
        mx.set_cache_limit(before)
