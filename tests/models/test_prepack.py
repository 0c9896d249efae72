"""Weights in oneDNN's order: the same products, the same bits back, and nothing changed where it does not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.config.schema import AdapterSection
from hantune.models import prepack as module
from hantune.models.adapter import attach_lora
from hantune.models.load import load_model
from hantune.models.prepack import added_bytes, dense, is_prepacked, pays, prepack, product, product_back, unpack

if not torch.backends.mkldnn.is_available():
    pytest.skip("oneDNN", allow_module_level=True)

TOKENS_BT = torch.tensor([[5, 9, 2, 30], [7, 7, 1, 3]])
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which library is quicker here is no matter of these laws."""
    monkeypatch.setattr(module, "pays", lambda dtype: True)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=TOKENS_BT, use_cache=False).logits)


def linears(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear and ".lora_" not in name}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_plain_weight(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(37, 21, bias=bias, dtype=dtype).requires_grad_(False)
    x, grad, onto = (torch.randn(2, 5, width).to(dtype) for width in (37, 21, 37))
    plain, back = F.linear(x, layer.weight, layer.bias), grad.view(-1, 21) @ layer.weight
    module._pack(layer, is_trained=True, is_shared=False)
    torch.testing.assert_close(product(x, layer), plain)
    torch.testing.assert_close(layer(x[:0]), plain[:0])
    torch.testing.assert_close(product_back(grad.view(-1, 21), layer), back)
    total = product_back(grad.view(-1, 21), layer, onto=onto.view(-1, 37).clone())
    torch.testing.assert_close(total, onto.view(-1, 37) + back)


def test_another_type_than_the_weights_is_multiplied_plainly() -> None:
    layer = nn.Linear(8, 4).requires_grad_(False)
    x, grad = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    weight = layer.weight.double()
    plain = F.linear(x, weight, layer.bias.double())
    module._pack(layer, is_trained=True, is_shared=False)
    assert torch.equal(product(x, layer), plain)
    assert torch.equal(product_back(grad, layer), grad @ weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["tiny_llama_folder", "tiny_bloom_folder"])
def test_a_model_computes_the_same_and_gets_its_weights_back(
    family: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    model = load_model(request.getfixturevalue(family), dtype=dtype)
    before, weights = logits(model), {name: layer.weight.clone() for name, layer in linears(model).items()}
    assert prepack(model) == len(weights) > 0
    assert prepack(model) == 0, "there is no more to do"
    torch.testing.assert_close(logits(model), before, rtol=2e-2, atol=1e-5)
    embedding = model.get_input_embeddings().weight
    for name, layer in linears(model).items():
        assert is_prepacked(layer)
        assert layer.weight.is_meta == (layer.weight is not embedding), "plain weights are let go, shared ones stay"
        assert torch.equal(dense(layer, dtype), weights[name])
    assert unpack(model) == len(weights)
    assert not any(map(is_prepacked, model.modules()))
    assert torch.equal(logits(model), before)
    assert all(torch.equal(layer.weight, weights[name]) for name, layer in linears(model).items())
    assert linears(model).popitem()[1].weight.requires_grad, "as it was"


def held(model: nn.Module) -> int:
    """Bytes of all weights, in any order."""
    plain = {id(p): p.nbytes for p in model.parameters() if not p.is_meta}
    laid = (tensor for layer in linears(model).values() if is_prepacked(layer) for tensor in layer.prepacked)
    return sum(plain.values()) + sum(tensor.nbytes for tensor in laid if tensor is not None)


def test_only_what_is_frozen_is_laid_out_for_training_and_takes_what_was_told(tiny_llama_folder: Path) -> None:
    model = attach_lora(
        load_model(tiny_llama_folder, dtype=torch.float32), AdapterSection(rank=4, targets=("q_proj", "v_proj")), seed=0
    )
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before, told = held(model), added_bytes(model)
    assert prepack(model, is_trained=True) == len(linears(model))
    assert held(model) - before == told > 0
    after = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(after[name] is p for name, p in learned.items())
    assert after.keys() == learned.keys()


def test_layers_that_are_learned_and_the_base_under_dora_stay_plain(tiny_llama_folder: Path) -> None:
    whole = load_model(tiny_llama_folder, dtype=torch.float32)
    assert prepack(whole, is_trained=True) == added_bytes(whole) == 0
    section = AdapterSection(rank=4, use_dora=True, targets=("q_proj",))
    tuned = attach_lora(load_model(tiny_llama_folder, dtype=torch.float32), section, seed=0)
    assert prepack(tuned, is_trained=True) > 0
    assert not any(is_prepacked(layer) for name, layer in linears(tuned).items() if "q_proj" in name)
    assert all(is_prepacked(layer) for name, layer in linears(tuned).items() if "k_proj" in name)


def test_a_tied_head_gets_its_second_copy_only_where_there_is_room(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    model = tiny_llama(sp_tokenizer, tie_word_embeddings=True)
    head = model.get_output_embeddings()
    assert prepack(model, most_added=head.weight.nbytes - 1) == len(linears(model)) - 1
    assert not is_prepacked(head)
    assert prepack(model, most_added=head.weight.nbytes) == 1
    assert not head.weight.is_meta


def test_a_model_that_reads_its_weights_itself_is_left_as_it_was(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(sp_tokenizer)
    mlp = type(model.model.layers[0].mlp)
    monkeypatch.setattr(mlp, "forward", lambda self, x: self.down_proj(F.silu(F.linear(x, self.gate_proj.weight))))
    before = logits(model)
    assert prepack(model) == 0
    assert torch.equal(logits(model), before)


def test_products_that_differ_are_not_used(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right = tiny_llama(sp_tokenizer), module.times
    before = logits(model)
    monkeypatch.setattr(module, "times", lambda x, packed, bias_O=None: right(x, packed, bias_O) * 1.01)
    assert prepack(model) == 0
    assert torch.equal(logits(model), before)


def test_without_onednn_or_gain_nothing_is_done(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(weight: Tensor) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(module, "pays", pays)
    module._pays.cache_clear()
    monkeypatch.setattr(module, "in_order", missing)
    assert [pays(dtype) for dtype in (*DTYPES, torch.float16)] == [False] * 3
    assert prepack(tiny_llama(sp_tokenizer)) == 0
    module._pays.cache_clear()


@pytest.mark.parametrize(("theirs", "wins"), [(1.0, False), (3.0, True)])
def test_in_float32_the_quicker_library_is_taken(theirs: float, wins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def passing(seconds: float, real: Callable[..., Any]) -> Callable[..., Any]:
        def work(*given: Any) -> Any:
            clock[0] += seconds
            return real(*given)

        return work

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "times", passing(1.0, module.times))
    monkeypatch.setattr(module.F, "linear", passing(theirs, F.linear))
    module._pays.cache_clear()
    assert module._pays(torch.float32, 1) is wins
    module._pays.cache_clear()
