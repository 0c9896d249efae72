"""Tensors and runs of their rows, read by position, are those that safetensors reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hantune.models import weights
from hantune.models.shards import TensorSpec, write_tensors
from hantune.models.weights import Tensors, row_blocks

TENSORS = {
    "a": torch.arange(60, dtype=torch.float32).reshape(20, 3),
    "b": torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "c": torch.tensor(3.5),
    "d": torch.arange(4, dtype=torch.int64),
    "e": torch.empty(0, 4),
}


@pytest.mark.parametrize("is_sharded", [False, True])
def test_tensors_and_rows_are_those_of_the_library(is_sharded: bool, tmp_path: Path) -> None:
    if is_sharded:
        names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
        specs = {name: TensorSpec(names[t.dtype], tuple(t.shape)) for name, t in TENSORS.items()}
        assert len(write_tensors(tmp_path, specs, TENSORS.__getitem__, shard_bytes=100)) > 1
    else:
        save_file(TENSORS, tmp_path / "model.safetensors")
        assert load_file(tmp_path / "model.safetensors").keys() == TENSORS.keys()
    with Tensors(tmp_path) as found:
        assert set(found.specs) == set(TENSORS)
        assert "a" in found
        assert "z" not in found
        for name, tensor in TENSORS.items():
            assert torch.equal(found.read(name), tensor)
            if tensor.ndim:
                assert torch.equal(found.read(name, 2, 4), tensor[2:4])
                assert torch.equal(found.read(name, 3), tensor[3:])


def test_blocks_in_order_make_up_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    for size in (1, 12, 40, 10**6):
        monkeypatch.setattr(weights, "BLOCK_BYTES", size)
        with Tensors(tmp_path) as found:
            for name, tensor in TENSORS.items():
                blocks = list(found.blocks(name))
                assert [start for start, _ in blocks] == [start for start, _ in row_blocks(found.specs[name])]
                if tensor.ndim:
                    assert torch.equal(torch.cat([tensor[:0], *(rows for _, rows in blocks)]), tensor)
                else:
                    assert torch.equal(blocks[0][1], tensor)


def test_a_file_cut_while_it_is_read_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    with Tensors(tmp_path) as found:
        found.read("a")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(EOFError):
            [found.read(name) for name in TENSORS]
