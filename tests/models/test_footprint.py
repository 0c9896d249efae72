"""What weights need is what they take; what does not fit is refused before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hantune.errors import MachineError
from hantune.log import size
from hantune.models import footprint
from hantune.models.footprint import held_bytes, require_memory, weight_bytes
from hantune.models.load import load_in_fp8, load_model
from hantune.models.quantize import LOADS


@pytest.mark.parametrize("load", LOADS)
def test_the_need_is_known_from_the_headers(tiny_llama_folder: Path, load: str) -> None:
    needed = weight_bytes(tiny_llama_folder, load=load, dtype=torch.float32)
    held = held_bytes(load_model(tiny_llama_folder, dtype=torch.float32, load=load))
    assert needed <= held <= 1.2 * needed


def test_the_need_of_a_base_in_fp8_is_known_too(tiny_llama_folder: Path) -> None:
    needed = weight_bytes(tiny_llama_folder, load="fp8", dtype=torch.bfloat16)
    held = held_bytes(load_in_fp8(tiny_llama_folder, dtype=torch.bfloat16, device="cpu"))
    assert needed <= held <= 1.2 * needed


def test_what_does_not_fit_is_refused_with_what_would(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, eight = (weight_bytes(tiny_llama_folder, load=load, dtype=torch.float32) for load in ("full", "8bit"))
    assert eight < whole
    monkeypatch.setattr("hantune.models.load.load_checked", lambda *_, **__: pytest.fail("loaded"))
    for free, told in ((whole - 1, f"--load 8bit ({size(eight)})"), (100, "换小一点的模型")):
        monkeypatch.setattr(footprint, "free_memory", lambda device, free=free: free)
        with pytest.raises(MachineError) as caught:
            load_model(tiny_llama_folder, dtype=torch.float32)
        assert caught.value.code == "model.no-memory"
        assert size(whole) in caught.value.message
        assert told in str(caught.value.hint)


@pytest.mark.parametrize("free", [None, 1 << 40])
def test_what_fits_or_is_not_known_goes_on(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda device: free)
    require_memory(tiny_llama_folder, load="full", dtype=torch.float32, device="cpu")
