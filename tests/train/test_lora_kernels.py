"""The fused LoRA layer is PEFT's: outputs, gradients, and everything it leaves to PEFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hantune.train.lora_kernels import _LoraLinears, fuse_lora, project


class Layers(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 20, bias=bias), nn.Linear(20, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.second(torch.relu(self.first(x))))


def make(bias: bool = True, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = get_peft_model(
        Layers(bias).double(),  # type: ignore[arg-type]
        LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], **settings),
        autocast_adapter_dtype=False,
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def outcome(model: Any) -> dict[str, torch.Tensor]:
    """Output, and the gradient of the input and of everything that is learned."""
    torch.manual_seed(1)
    x = torch.randn(2, 5, 12, dtype=torch.float64).to(next(model.parameters()).dtype).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"y": y.detach(), "x": x.grad, **grads}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_outputs_and_gradients_are_pefts(bias: bool, settings: dict[str, Any]) -> None:
    expected, fused = outcome(make(bias, **settings)), make(bias, **settings)
    assert fuse_lora(fused) == 2
    found = outcome(fused)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 5), (2, 5), (4, 2)))
    base = nn.Linear(5, 4, dtype=torch.float64).requires_grad_(False)
    assert torch.autograd.gradcheck(
        lambda *given: _LoraLinears.apply(given[0], (base,), (0.7,), *given[1:])[0], (x, a, b)
    )


class Group(nn.Module):
    """Layers that read one input, as q, k and v do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(12, width, bias=False) for width in (20, 6, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(project((self.first, self.second, self.third), x), -1)


@pytest.mark.parametrize("targets", [["first", "second", "third"], ["first", "third"]])
def test_a_group_is_its_members(targets: list[str]) -> None:
    results = []
    for is_fused in (False, True):
        torch.manual_seed(0)
        model: Any = get_peft_model(
            Group().double(),  # type: ignore[arg-type]
            LoraConfig(r=4, target_modules=targets, rank_pattern={"first": 2}, init_lora_weights=False),
            autocast_adapter_dtype=False,
        )
        assert not is_fused or fuse_lora(model) == len(targets)
        results.append(outcome(model))
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-10, atol=1e-12)


def disable(model: Any) -> None:
    model.base_model.disable_adapter_layers()


def merge(model: Any) -> None:
    model.base_model.merge_adapter()


def add_another(model: Any) -> None:
    model.add_adapter(
        "more", LoraConfig(r=2, lora_alpha=8, target_modules=["first", "second"], init_lora_weights=False)
    )
    model.base_model.set_adapter(["default", "more"])


@pytest.mark.parametrize("change", [disable, merge, add_another])
def test_other_states_are_left_to_peft(change: Callable[[Any], None]) -> None:
    plain, fused = make(), make()
    fuse_lora(fused)
    for model in (plain, fused):
        torch.manual_seed(2)
        change(model)
    x = torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(fused(x), plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_are_left_to_peft(settings: dict[str, Any]) -> None:
    plain, fused = make(**settings), make(**settings)
    fuse_lora(fused)
    expected, found = outcome(plain), outcome(fused)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_a_base_that_is_learned_too_is_left_to_peft() -> None:
    plain, fused = make().requires_grad_(), make().requires_grad_()
    fuse_lora(fused)
    expected, found = outcome(plain), outcome(fused)
    assert any("base_layer" in name for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_an_input_of_another_type_is_left_to_peft() -> None:
    plain, fused = make().float(), make().float()
    fuse_lora(fused)
    x = torch.randn(3, 12).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x), plain(x), rtol=0, atol=0)


def test_masters_stay_float32_under_a_bf16_base() -> None:
    model = make().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    exact = outcome(make())
    fuse_lora(model)
    found = outcome(model)
    for name, value in exact.items():
        if "lora_" in name:
            assert found[name].dtype == torch.float32
        error = (found[name].double() - value).norm() / value.norm()
        assert error < 0.05, name


def test_no_grad_for_an_input_that_wants_none() -> None:
    model = make()
    fuse_lora(model)
    model(torch.randn(3, 12, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "lora_" in name)
