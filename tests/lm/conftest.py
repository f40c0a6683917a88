"""MLX's run-time compiler calls the C++ compiler on a CPU; these tests do without."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mipo_mlx.models.load import LanguageModel, load_model

from . import archs

mx.disable_compile()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archs.write(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def lm(llama_folder: Path) -> LanguageModel:
    return load_model(str(llama_folder))
