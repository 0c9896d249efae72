"""Folders of pickles: which files belong to them. What they become is in test_convert."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from hantune.errors import ModelError
from hantune.models.convert.bins import INDEX, BinModel, bin_paths


@pytest.fixture
def folder(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_llama_folder, tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.ones(64)}, tmp_path / "bin" / "pytorch_model.bin")
    return tmp_path / "bin"


def index(folder: Path, **where: str) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": where}), encoding="utf-8")


def test_the_index_goes_before_the_single_file(folder: Path) -> None:
    assert bin_paths(folder) == [folder / "pytorch_model.bin"]
    (folder / "x.bin").touch()
    index(folder, a="x.bin")
    assert bin_paths(folder) == [folder / "x.bin"]


@pytest.mark.parametrize("name", ["../x.bin", "/x.bin", "", "a/b.bin"])
def test_an_index_stays_in_its_folder(folder: Path, name: str) -> None:
    index(folder, a=name)
    with pytest.raises(ModelError, match="bad-index"):
        bin_paths(folder)


def test_missing_files_are_named(folder: Path) -> None:
    index(folder, a="pytorch_model.bin", b="gone.bin")
    with pytest.raises(ModelError, match=r"gone\.bin") as caught:
        bin_paths(folder)
    assert caught.value.code == "model.shard-missing"
    (folder / INDEX).unlink()
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="shard-missing"):
        bin_paths(folder)


def test_tensors_are_compared_with_the_config_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        BinModel(folder)
    assert caught.value.code == "model.keys"
    assert "缺少" in caught.value.message


def test_a_folder_without_config_or_tokenizer_is_refused(folder: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (folder / name).unlink()
        with pytest.raises(ModelError, match="model.no-"):
            BinModel(folder)
