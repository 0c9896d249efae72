"""Safetensors on disk: our writer against the library's reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hantune.errors import ModelError
from hantune.models import shards
from hantune.models.shards import DTYPE_NAMES, INDEX, WEIGHTS, TensorSpec, read_header, tensor_places, write_tensors
from tests.laws import examples


def specs_of(tensors: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(DTYPE_NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()}


TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor(1.5, dtype=torch.bfloat16),
    "c": torch.zeros(0, 4, dtype=torch.float16),
    "d": torch.arange(5, dtype=torch.int64),
    "e": torch.tensor([True, False, True]),
    "f": torch.ones(3, 3, dtype=torch.bfloat16).T,
}


@given(st.permutations(list(TENSORS)), st.sampled_from([1, 30, 60, 10**6]))
@examples(10, 30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back_by_the_library(tmp_path: Path, order: list[str], limit: int) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    tensors = {name: TENSORS[name] for name in order}
    files = write_tensors(tmp_path, specs_of(tensors), tensors.__getitem__, shard_bytes=limit)
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)
    assert {name: spec for name, (_, spec) in tensor_places(tmp_path).items()} == specs_of(tensors)
    assert shards.weight_files(tmp_path) == sorted(files)


def test_one_file_has_no_index_and_several_have_one(tmp_path: Path) -> None:
    write_tensors(tmp_path, specs_of(TENSORS), TENSORS.__getitem__)
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]
    (tmp_path / WEIGHTS).unlink()
    files = write_tensors(tmp_path, specs_of(TENSORS), TENSORS.__getitem__, shard_bytes=40)
    index = json.loads((tmp_path / INDEX).read_bytes())
    assert {*index["weight_map"].values()} == {path.name for path in files}
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in TENSORS.values())


def test_a_tensor_that_is_not_as_promised_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="promised"):
        write_tensors(tmp_path, {"a": TensorSpec("F32", (3, 2))}, TENSORS.__getitem__)


@pytest.mark.parametrize("cut", [0, 5, 9, 40, -1])
def test_a_torn_file_is_told_from_its_header(tmp_path: Path, cut: int) -> None:
    path = tmp_path / WEIGHTS
    save_file({"a": TENSORS["a"]}, path)
    assert read_header(path) == {"a": TensorSpec("F32", (2, 3))}
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert caught.value.code == "model.torn-file"
    assert str(path) == caught.value.place


def test_bytes_behind_the_end_are_told_too(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS
    save_file({"a": TENSORS["a"]}, path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="torn-file"):
        read_header(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_a_broken_index_has_its_code(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        shards.weight_files(tmp_path)
    assert caught.value.code == "model.bad-index"
