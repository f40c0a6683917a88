"""Metrics elsewhere: numbers alone, and only when they are asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mipo_mlx.errors import ConfigError
from mipo_mlx.training.trackers import tracker

VALUES = {"loss": 0.5, "rewards/margins": 1.5}


def test_nobody_is_told_by_default(tmp_path: Path) -> None:
    with tracker("", tmp_path) as tell:
        tell(1, VALUES)
    assert not list(tmp_path.iterdir())


def test_tensorboard_files_hold_names_and_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with tracker("tensorboard", tmp_path) as tell:
        tell(1, VALUES)
        tell(2, VALUES)
    (file,) = (tmp_path / "tensorboard").glob("events.*")
    data = file.read_bytes()
    assert data.count(b"loss") == data.count(b"rewards/margins") == 2


def test_wandb_is_given_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Any] = []
    session = SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("end")
    )

    def init(**how: Any) -> Any:
        told.append(how)
        return session

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with tracker("wandb", tmp_path / "run") as tell:
        tell(3, VALUES)
    named = {"project": "mipo", "name": "run", "dir": str(tmp_path / "run")}
    assert told == [named, (3, VALUES), "end"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    with pytest.raises(ConfigError, match="not installed"), tracker(name, tmp_path):
        pass
