"""Bases and adapters that the tests of merging share."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hantune.models.load import load_model, load_tokenizer


@pytest.fixture(scope="session")
def kept_base_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny model folder in the asked dtype. Read only."""

    @functools.cache
    def make(family: str, dtype: str) -> Path:
        source = request.getfixturevalue(f"tiny_{family}_folder")
        folder = tmp_path_factory.mktemp("bases") / f"{family}-{dtype}"
        load_model(source, dtype=getattr(torch, dtype)).save_pretrained(folder)
        load_tokenizer(source).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def pair_of(
    kept_base_of: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[Path, Path]]:
    """A tiny model folder in the asked dtype, and an adapter of it. Read only."""

    @functools.cache
    def make(family: str, dtype: str) -> tuple[Path, Path]:
        base = kept_base_of(family, dtype)
        return base, make_adapter(tmp_path_factory.mktemp("adapters") / "adapter", base, dtype=dtype)

    return make


@pytest.fixture
def base_of(kept_base_of: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy to change."""

    def make(family: str, dtype: str = "float32") -> Path:
        kept = kept_base_of(family, dtype)
        return Path(shutil.copytree(kept, tmp_path / kept.name))

    return make
