"""Tensors without contents are counted as those with contents are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hantune.models.load import load_in_fp8, load_model
from hantune.models.stand_in import Live, stand_in

CPU = torch.device("cpu")
KIB = 1024


def test_what_lives_and_what_lived_at_once() -> None:
    with Live() as live:
        kept = torch.zeros(KIB, dtype=torch.uint8)
        passing = torch.zeros(3 * KIB, dtype=torch.uint8)
        view = passing[:10]
        del passing
        assert live.now == 4 * KIB, "a view holds all of what it looks at"
        del view
        assert (live.now, live.peak) == (KIB, 4 * KIB)
        kept.add_(1)
    assert live.peak == 4 * KIB


def test_the_graph_is_counted_until_the_backward_pass() -> None:
    weight = nn.Parameter(torch.zeros(KIB))
    with Live() as live:
        loss = (weight.exp() * 2).sum()
        assert live.now >= 4 * KIB
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        assert live.now == 4 * KIB, "the gradient"


@pytest.mark.parametrize("load", ["full", "8bit", "4bit", "fp8"])
def test_a_stand_in_takes_what_the_loaded_model_takes(load: str, tiny_llama_folder: Path) -> None:
    def held(model: Any) -> int:
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        for tensor in tensors.values():
            if (state := getattr(tensor, "quant_state", None)) is not None:
                parts = (state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset)
                total += sum(part.numel() * part.element_size() for part in parts)
            elif (scales := getattr(tensor, "SCB", getattr(tensor, "scales_O1", None))) is not None:
                total += scales.numel() * scales.element_size()
        return total

    if load == "fp8":
        real = load_in_fp8(tiny_llama_folder, dtype=torch.bfloat16, device="cpu")
    else:
        real = load_model(tiny_llama_folder, dtype=torch.bfloat16, load=load)
    for parameter in real.parameters():
        parameter.requires_grad_(False)
    with torch.device("meta"):
        model = type(real)._from_config(real.config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with Live() as live:
        stand_in(model, CPU, load=load)
    assert live.now == pytest.approx(held(real), rel=0.01)


def test_tied_weights_stay_one(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer, tie_word_embeddings=True).to("meta")
    model.tie_weights()
    stand_in(model, CPU)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.device == CPU
