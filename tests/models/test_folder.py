"""Folders that are no models, each told by name before a weight is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hantune.errors import ModelError
from hantune.models.folder import copy_beside, leads_out, read_config, require_model, weight_problems
from hantune.models.load import load_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n"


@pytest.fixture
def model(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_llama_folder, tmp_path / "model")
    return tmp_path / "model"


def _empty(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _meta(model: Path) -> None:
    _empty(model)
    (model / "config.json").unlink()
    (model / "consolidated.00.pth").write_bytes(b"PK")
    (model / "params.json").write_text("{}", encoding="utf-8")


def _adapter(model: Path) -> None:
    _empty(model)
    (model / "adapter_config.json").write_text("{}", encoding="utf-8")


def _pickle(model: Path) -> None:
    _empty(model)
    (model / "pytorch_model.bin").write_bytes(b"PK")


def _pointer(model: Path) -> None:
    (model / "model.safetensors").write_bytes(POINTER)


def _config_pointer(model: Path) -> None:
    (model / "config.json").write_bytes(POINTER)


def _torn(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _shard_missing(model: Path) -> None:
    path = model / "model.safetensors"
    path.rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _index_missing(model: Path) -> None:
    _shard_missing(model)
    (model / "model.safetensors.index.json").unlink()


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


def _bad_config(model: Path) -> None:
    (model / "config.json").write_text('{"hidden_size": 8}', encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "spoil", "word"),
    [
        ("model.no-weights", _empty, "safetensors"),
        ("model.meta-layout", _meta, "consolidated"),
        ("model.adapter-not-model", _adapter, "适配器"),
        ("model.pickle-only", _pickle, "pickle"),
        ("model.lfs-pointer", _pointer, "LFS"),
        ("model.lfs-pointer", _config_pointer, "config.json"),
        ("model.torn-file", _torn, "model.safetensors"),
        ("model.shard-missing", _shard_missing, "model-00002-of-00002"),
        ("model.bad-index", _index_missing, "model-00001-of-00002"),
        ("model.no-config", _no_config, "config.json"),
        ("model.bad-config", _bad_config, "model_type"),
    ],
)
def test_a_folder_that_is_no_model_is_told_by_its_code(
    model: Path, code: str, spoil: Callable[[Path], None], word: str
) -> None:
    spoil(model)
    with pytest.raises(ModelError) as caught:
        require_model(model)
    assert caught.value.code == code
    assert word in caught.value.message
    assert str(model) in str(caught.value.place)
    assert caught.value.hint
    with pytest.raises(ModelError) as again:
        load_model(model, dtype=torch.float32)
    assert again.value.code == code


def test_a_sound_folder_gives_its_files(model: Path) -> None:
    assert require_model(model) == [model / "model.safetensors"]
    assert read_config(model)["model_type"] == "llama"


def test_an_empty_folder_of_a_run_points_inside(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ModelError) as caught:
        require_model(tmp_path)
    assert "adapter" in str(caught.value.hint)


def test_every_broken_file_is_told(model: Path) -> None:
    _shard_missing(model)
    (model / "model-00001-of-00002.safetensors").write_bytes(POINTER)
    assert [problem.code for problem in weight_problems(model)] == ["model.shard-missing", "model.lfs-pointer"]


def test_links_out_of_a_folder_are_seen_and_not_followed(tmp_path: Path) -> None:
    for name in ("model", "cache/models--a--b/snapshots/r", "cache/models--a--b/blobs", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    (tmp_path / "model" / "LICENSE").write_text("text", encoding="utf-8")
    (tmp_path / "model" / "LICENSE.2").symlink_to("LICENSE")
    (tmp_path / "model" / "NOTICE").symlink_to(tmp_path / "secret")
    (tmp_path / "cache/models--a--b/blobs/f").touch()
    cached = tmp_path / "cache/models--a--b/snapshots/r"
    (cached / "f").symlink_to("../../blobs/f")
    (cached / "g").symlink_to(tmp_path / "secret")
    assert [leads_out(path) for path in sorted((tmp_path / "model").iterdir())] == [False, False, True]
    assert [leads_out(cached / name) for name in "fg"] == [False, True]
    assert copy_beside(tmp_path / "model", tmp_path / "out", ("LICENSE*", "NOTICE*")) == ["LICENSE", "LICENSE.2"]
