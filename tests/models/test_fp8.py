"""8-bit floats: what rounding keeps, products against the dense weight, and who is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hantune.errors import ConfigError, MachineError
from hantune.models import fp8
from hantune.models.load import load_in_fp8, load_model
from hantune.models.quantize import Fp8, dense_weight, is_quantized, round_linears, round_trip

CPU = torch.device("cpu")


def drawn(rows: int, columns: int, *, seed: int = 0, spread: float = 3.0) -> Tensor:
    """Numbers whose rows are of very different sizes."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.exp(spread * torch.randn(rows, 1, generator=draw))
    return torch.randn(rows, columns, generator=draw) * sizes


def layer_of(outputs: int, inputs: int, *, bias: bool = False) -> nn.Linear:
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    model.get_output_embeddings = lambda: None  # type: ignore[assignment, method-assign]
    assert fp8.hold_in_fp8(model, CPU) == 1
    return model[0].train()  # type: ignore[return-value]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@given(st.integers(0, 1000), st.floats(-30, 30), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(deadline=None, max_examples=50)
def test_each_number_keeps_three_bits_behind_the_first(seed: int, octave: float, dtype: torch.dtype) -> None:
    x = (drawn(5, 32, seed=seed) * 2**octave).to(dtype)
    number = fp8.rounded(x)
    codes, scales, _ = number
    seen = fp8.dense(number, torch.float32)
    largest = x.float().abs().amax(1, keepdim=True)
    assert bool((torch.frexp(scales).mantissa == 0.5).all()), "powers of two"
    at_top = codes.float().abs().amax(1)
    assert bool((at_top >= 224).all())
    assert bool((at_top <= 448).all())
    error = (seen - x.float()).abs()
    assert bool((error <= torch.maximum(x.float().abs() / 16, largest / 224 * 2**-10)).all())
    again = fp8.rounded(fp8.dense(number, dtype))
    assert torch.equal(fp8.dense(again, torch.float32), seen), "what is rounded already stays"
    assert torch.equal(fp8.dense(again, torch.bfloat16).float(), seen), "exact in bf16"


def test_rows_of_zeros_of_the_smallest_and_of_what_is_no_number() -> None:
    rows = torch.tensor([[0.0] * 16, [1e-38] * 16, [3e38] * 16, [1.0] * 15 + [float("inf")], [float("nan")] * 16])
    seen = fp8.dense(fp8.rounded(rows), torch.float32)
    assert bool((seen[0] == 0).all())
    assert bool((seen[1].abs() <= 2e-38).all())
    assert torch.allclose(seen[2], rows[2], rtol=1 / 16)
    assert not bool(seen[3:].isfinite().all(1).any()), "overflow must not look like a number: a guard looks for it"


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    x = drawn(6, 64)
    whole = fp8.dense(fp8.rounded(x), torch.float32)
    for row in range(6):
        assert torch.equal(fp8.dense(fp8.rounded(x[row : row + 1]), torch.float32), whole[row : row + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_the_rounded_numbers_with_the_dense_weight(dtype: torch.dtype, bias: bool) -> None:
    layer = layer_of(48, 80, bias=bias)
    limit = 1e-6 if dtype == torch.float32 else 4e-3
    weight = dense_weight(layer, torch.float32)
    x, grad = drawn(7, 80).to(dtype), drawn(7, 48, seed=1).to(dtype)
    seen = fp8.dense(fp8.rounded(x), torch.float32)
    expected = seen @ weight.T + (0 if layer.bias is None else layer.bias.detach())
    for read in (x, fp8.read_by((layer,), x)):
        found = fp8.product(read, layer).detach()
        assert found.dtype == dtype
        assert relative(found, expected) < limit
    assert relative(expected, x.float() @ weight.T) < 0.06, "what rounding the activations costs"
    back = fp8.product_back(grad, layer)
    assert back.dtype == dtype
    assert relative(back, grad.float() @ weight) < 0.06
    scales = layer.weight.scales_O1.view(1, -1)  # type: ignore[union-attr, operator]
    turned = fp8.dense(fp8.rounded(grad, scales), torch.float32) @ (weight / scales.T)
    assert relative(back, turned) < limit
    assert fp8.product(x.view(1, 7, 80), layer).shape == (1, 7, 48)
    assert fp8.product_back(grad.view(1, 7, 48), layer).shape == (1, 7, 80)


def test_only_training_computes_in_eight_bits() -> None:
    layer, x = layer_of(16, 32), torch.randn(3, 32)
    assert isinstance(fp8.read_by((layer, layer), x), fp8.Rounded)
    assert fp8.read_by((layer, nn.Linear(32, 5)), x) is x
    assert not fp8.computes_in_fp8(layer.eval())
    assert fp8.read_by((layer,), x) is x


def test_the_dense_weight_of_a_loaded_base_is_the_round_trip(tiny_llama_folder: Path) -> None:
    plain = load_model(tiny_llama_folder, dtype=torch.bfloat16)
    held = load_in_fp8(tiny_llama_folder, dtype=torch.bfloat16, device="cpu")
    layers = {name: m for name, m in held.named_modules() if is_quantized(m)}
    assert layers
    assert not is_quantized(held.get_output_embeddings())
    round_linears(before := load_model(tiny_llama_folder, dtype=torch.bfloat16), Fp8())
    for name, layer in layers.items():
        weight = plain.get_parameter(f"{name}.weight").data
        assert layer.weight.nbytes == weight.nbytes // 2
        assert torch.equal(dense_weight(layer, torch.bfloat16), round_trip(weight, Fp8()))
        assert torch.equal(before.get_parameter(f"{name}.weight"), round_trip(weight, Fp8()))
        assert 0.01 < relative(round_trip(weight, Fp8()), weight) < 0.04


def test_sizes_that_no_kernel_takes_stay_as_they_are() -> None:
    for outputs, inputs in ((16, 24), (24, 16)):
        weight = torch.randn(outputs, inputs)
        assert not fp8.fits(weight.shape)
        assert torch.equal(round_trip(weight, Fp8(dtype=torch.float32)), weight)
    turned = torch.randn(32, 16)
    assert torch.equal(round_trip(turned, Fp8(dtype=torch.float32), is_turned=True), turned), "no nn.Linear is there"


@pytest.mark.parametrize(
    ("capability", "is_nvidia", "told"),
    [(None, True, None), ((8, 9), True, None), ((9, 0), True, None), ((8, 6), True, "8.6"), ((9, 4), False, "NVIDIA")],
)
def test_which_cards_have_the_units(capability: Any, is_nvidia: bool, told: str | None) -> None:
    found = fp8._obstacle(capability, is_nvidia=is_nvidia)
    assert (found is None) if told is None else (told in str(found))


def old_card(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    return torch.device("cuda")


def without_support(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("not implemented for 'Float8_e4m3fn'\nmore")

    monkeypatch.setattr(torch.nn.functional, "scaled_mm", refuse)
    return CPU


def with_wrong_sums(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", lambda a, b, *_, **__: torch.zeros(len(a), b.shape[1]))
    return CPU


@pytest.mark.parametrize(
    ("machine", "told"), [(old_card, "能力是 8.6"), (without_support, "Float8_e4m3fn"), (with_wrong_sums, "结果不对")]
)
def test_a_machine_that_cannot_is_refused_before_anything_is_loaded(
    machine: Callable[[pytest.MonkeyPatch], torch.device],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tiny_llama_folder: Path,
) -> None:
    device = machine(monkeypatch)
    monkeypatch.setattr("hantune.models.load.load_checked", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(MachineError) as caught:
        load_in_fp8(tiny_llama_folder, dtype=torch.bfloat16, device=str(device))
    assert caught.value.code == "machine.no-fp8"
    assert told in caught.value.message


def test_answers_are_not_given_in_fp8(tiny_llama_folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(tiny_llama_folder, dtype=torch.float32, load="fp8")
    assert caught.value.code == "model.unknown-load"
    assert "只用于训练" in str(caught.value.hint)


def test_a_compiler_that_fails_leaves_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", refuse)
    assert fp8._rounding.__wrapped__("cuda") is fp8._round
