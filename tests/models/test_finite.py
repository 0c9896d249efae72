"""NaN, infinity and empty matrices, found in raw bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hantune.models.finite import faults

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_no_number_is_counted_as_torch_does(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensor[3, 1], tensor[5, 5], tensor[100, 0] = torch.nan, torch.inf, -torch.inf
    save_file({"bad": tensor, "good": torch.full((9,), torch.finfo(dtype).max, dtype=dtype)}, tmp_path / "a")
    found = list(faults(tmp_path / "a", deep=True))
    assert [(f.name, f.not_finite, f.is_zero) for f in found] == [("bad", 3, False)]


def test_samples_see_both_ends_and_the_middle(tmp_path: Path) -> None:
    for place in (0, 50_000, 99_999):
        tensor = torch.ones(100_000)
        tensor[place] = torch.nan
        save_file({"w": tensor}, tmp_path / "a")
        assert [f.not_finite for f in faults(tmp_path / "a")] == [1]
    tensor = torch.ones(100_000)
    tensor[20_000] = torch.nan
    save_file({"w": tensor}, tmp_path / "a")
    assert not list(faults(tmp_path / "a"))
    assert [f.not_finite for f in faults(tmp_path / "a", deep=True)] == [1]


def test_matrices_of_zeros_are_told_and_vectors_are_not(tmp_path: Path) -> None:
    save_file({"m": torch.zeros(9, 9), "bias": torch.zeros(9), "ids": torch.zeros(3, 3).long()}, tmp_path / "a")
    assert [(f.name, f.is_zero) for f in faults(tmp_path / "a")] == [("m", True)]
