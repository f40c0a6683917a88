"""The compiler's switch: off while asked on a CPU, and as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest

from mipo_mlx.models.compiler import compiles, uncompiled_on_cpu

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="nothing changes on a GPU"
)


@pytest.fixture
def enabled() -> Iterator[None]:
    mx.enable_compile()
    yield
    mx.disable_compile()


def traces(count: int) -> int:
    """How often MLX runs a function that it was asked to compile, in so many calls."""
    calls: list[int] = []
    function = mx.compile(lambda array: (calls.append(1), array)[1])
    for _ in range(count):
        function(mx.zeros((2,)))
    return len(calls)


def test_it_is_off_meanwhile_and_on_again(enabled: None) -> None:
    assert traces(3) == 1 and compiles()
    with uncompiled_on_cpu(), uncompiled_on_cpu():
        assert traces(3) == 3 and not compiles()
    assert traces(3) == 1
    with pytest.raises(RuntimeError), uncompiled_on_cpu():
        raise RuntimeError
    assert traces(3) == 1


def test_a_caller_who_switched_it_off_finds_it_off() -> None:
    mx.disable_compile()
    with uncompiled_on_cpu():
        pass
    assert traces(3) == 3 and not compiles()


def test_as_a_decorator_it_opens_for_every_call(enabled: None) -> None:
    function = uncompiled_on_cpu()(lambda: traces(3))
    assert [function(), function()] == [3, 3]
    assert traces(3) == 1
