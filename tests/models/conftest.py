"""Adapters and folders that the model tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def move(model: Any, *, seed: int = 5, scale: float = 0.1) -> Any:
    """Set every trainable tensor of a PeftModel to seeded noise, as training would; gives the model back."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, scale, generator=generator)
    return model


@pytest.fixture(scope="session")
def make_adapter() -> Callable[..., Path]:
    """``make_adapter(folder, base, section=..., template="llama2")``: an ADAPTER of a base folder, moved by noise."""
    from hantune.config.schema import AdapterSection
    from hantune.data.templates import get_template
    from hantune.models.adapter import attach_lora, save_adapter
    from hantune.models.load import load_model, load_tokenizer

    def make(folder: Path, base: Path, *, template: str = "llama2", dtype: str = "float32", **section: Any) -> Path:
        model = attach_lora(load_model(base, dtype=getattr(torch, dtype)), AdapterSection(**section), seed=1)
        info = {"data": {"fingerprint": "d" * 64}, "metrics": {"loss": 1.5}}
        save_adapter(
            move(model),
            folder,
            base=str(base),
            tokenizer=load_tokenizer(base),
            template=get_template(template),
            info=info,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def workshop(
    make_adapter: Callable[..., Path], tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with ``base`` (tiny Llama) and ``adapter`` (its adapter). Read only: use ``shop``."""
    root = tmp_path_factory.mktemp("workshop")
    shutil.copytree(tiny_llama_folder, root / "base")
    make_adapter(root / "adapter", root / "base")
    return root


@pytest.fixture
def shop(workshop: Path, tmp_path: Path) -> Path:
    """A copy of ``workshop`` to break."""
    shutil.copytree(workshop, tmp_path / "shop")
    return tmp_path / "shop"
