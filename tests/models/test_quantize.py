"""4 and 8 bits: what bitsandbytes makes of a weight, loading through it, and the record of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hantune.errors import HantuneError
from hantune.models.load import load_model
from hantune.models.outline import outline, skeleton
from hantune.models.quantize import (
    Int8,
    Nf4,
    Quantization,
    dense_weight,
    is_quantized,
    loading_config,
    num_weights,
    quantization_of,
    recorded,
    round_trip,
)

needs_library = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed"
)
LEVELS = torch.tensor(
    [
        -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0, 0.0795803, 0.1609302,
        0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
    ]
)  # fmt: skip
"""NF4's levels (arXiv:2305.14314, appendix E)."""


@needs_library
@given(st.integers(0, 10**6), st.floats(1e-3, 10.0))
def test_each_block_goes_to_the_nearest_of_16_levels_of_its_largest(seed: int, scale: float) -> None:
    weight = torch.empty(4, 64).normal_(0, scale, generator=torch.Generator().manual_seed(seed))
    seen = round_trip(weight, Nf4(dtype=torch.float32, double=False))
    largest = weight.abs().amax(1, keepdim=True)
    nearest = ((weight / largest)[..., None] - LEVELS).abs().amin(-1)
    torch.testing.assert_close(((seen - weight) / largest).abs(), nearest, rtol=0, atol=1e-5)


@needs_library
@given(st.integers(0, 10**6), st.floats(1e-3, 10.0))
def test_each_row_goes_to_the_nearest_of_255_even_levels_of_its_largest(seed: int, scale: float) -> None:
    weight = torch.empty(4, 64).normal_(0, scale, generator=torch.Generator().manual_seed(seed))
    seen = round_trip(weight, Int8(dtype=torch.float32))
    largest = weight.half().abs().amax(1, keepdim=True).float()
    assert float(((seen - weight).abs() / largest).max()) < 0.5 / 127 + 1e-3
    levels = seen / largest * 127
    assert torch.allclose(levels, levels.round(), atol=1e-3)


@pytest.fixture(scope="session")
def tiny_gpt2_folder(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family whose linear layers are stored I x O."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    torch.manual_seed(0)
    shape = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": len(byte_tokenizer)}
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@needs_library
@pytest.mark.parametrize(("load", "how"), [("4bit", Nf4()), ("8bit", Int8())])
@pytest.mark.parametrize("family", ["llama", "bloom", "gpt2"])
def test_a_model_loaded_in_few_bits_has_the_weights_of_the_round_trip(
    load: str, how: Quantization, family: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{family}_folder")
    plain = load_model(folder, dtype=torch.bfloat16)
    model = load_model(folder, dtype=torch.bfloat16, load=load)
    found = {f"{name}.weight": layer for name, layer in model.named_modules() if is_quantized(layer)}
    bones = outline(skeleton(folder))
    assert found.keys() == bones.linear
    for name, layer in found.items():
        is_turned = name in bones.turned
        seen = round_trip(plain.get_parameter(name).data, how, is_turned=is_turned)
        dense = dense_weight(layer, torch.bfloat16)
        assert torch.equal(dense.T if is_turned else dense, seen)
        assert num_weights(layer.weight) == dense.numel()
    assert quantization_of(load, torch.bfloat16) == how


@needs_library
@pytest.mark.parametrize(("load", "tolerance"), [("8bit", 0.1), ("4bit", 0.6)])
def test_fewer_bits_answer_nearly_the_same(load: str, tolerance: float, tiny_llama_folder: Path) -> None:
    ids = torch.tensor([[1, 5, 9, 300, 301, 17]])
    with torch.no_grad():
        full = load_model(tiny_llama_folder, dtype=torch.float32)(input_ids=ids).logits
        less = load_model(tiny_llama_folder, dtype=torch.float32, load=load)(input_ids=ids).logits
    assert 0 < float((full - less).square().mean().sqrt()) < tolerance * float(full.square().mean().sqrt())


def test_full_is_no_quantisation_and_other_words_are_refused() -> None:
    assert loading_config("full", torch.float32) is quantization_of("full", torch.float32) is None
    with pytest.raises(HantuneError) as caught:
        loading_config("3bit", torch.float32)
    assert caught.value.code == "model.unknown-load"


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(HantuneError) as caught:
        loading_config("4bit", torch.float32)
    assert caught.value.code == "machine.no-bitsandbytes"
    assert "pip install" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "how", [Nf4(), Nf4(dtype=torch.float16, double=False, block=128), Int8(), Int8(dtype=torch.float32)]
)
def test_the_record_says_how_the_base_was_quantised(how: Quantization) -> None:
    assert recorded({"quantization": how.as_dict()}, "a") == how
    assert recorded({}, "a") is recorded(None, "a") is None


@pytest.mark.parametrize(
    "entry", [{}, {"type": "fp4", "dtype": "bfloat16", "double": True, "block": 64}, {"type": "nf4", "dtype": "x"}, 4,
              {"type": "int8", "dtype": "nn"}]
)
def test_an_unknown_quantisation_is_not_guessed_at(entry: Any) -> None:
    with pytest.raises(HantuneError) as caught:
        recorded({"quantization": entry}, "a")
    assert caught.value.code == "adapter.bad-record"
