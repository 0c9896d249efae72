"""LoRA's linear layers as one autograd function: what PEFT computes, with fewer passes over the activations.

PEFT adds three tensors of the output's size (the base's result, the adapter's, the scaled one), casts the input to the
adapter's float32, and keeps both inputs for the backward pass. Here the adapter is added in place by one matrix
product, in the input's type, and only the input and the R columns behind A are kept.

Shape letters: N tokens, I inputs, O outputs, R rank.
Source: Hu et al., LoRA (2021); gradients by hand: dB = s dY^T H, dH = s dY B, dA = dH^T X, dX = dY W + dH A, H = X A^T.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _LoraLinear(torch.autograd.Function):
    """``x W^T + bias + scaling x A^T B^T`` with W and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scaling: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        hidden_NR = x_NI @ a_RI.to(x.dtype).T
        y_NO = F.linear(x_NI, weight_OI, bias_O)
        y_NO.addmm_(hidden_NR, b_OR.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, hidden_NR)
        ctx.scaling = scaling
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, a_RI, b_OR, hidden_NR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = (grad_NO @ b_OR.to(grad.dtype)).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_NI = grad_NO @ weight_OI
            grad_x = grad_NI.addmm_(grad_NR, a_RI.to(grad.dtype)).view(*grad.shape[:-1], -1)
        grad_a = (grad_NR.T @ x_NI).to(a_RI.dtype)
        grad_b = (grad_NO.T @ hidden_NR).mul_(ctx.scaling).to(b_OR.dtype)
        return grad_x, None, None, grad_a, grad_b, None


def fuse_lora(model: nn.Module) -> int:
    """How many of the model's LoRA layers are computed by ``_LoraLinear`` from now on; the others stay PEFT's.

    PEFT's own forward still runs where more than the plain formula is asked for: several or disabled adapters, dropout,
    DoRA, autocast, a base that is no plain linear layer of the input's type.
    """
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if type(module) is Linear and type(module.base_layer) is nn.Linear]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The layer's output."""
    name = _plain_adapter(layer, x) if not (args or kwargs) else None
    if name is None:
        output: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return output
    base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    return torch.as_tensor(_LoraLinear.apply(x, base.weight, base.bias, a, b, layer.scaling[name]))  # type: ignore[no-untyped-call]


def _plain_adapter(layer: Any, x: Tensor) -> str | None:
    """The one adapter that is at work, if the formula is all that it is."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] in layer.lora_variant:
        return None
    dropout = layer.lora_dropout[names[0]]
    is_dropping = layer.training and not isinstance(dropout, nn.Identity)
    is_learned = any(parameter.requires_grad for parameter in layer.base_layer.parameters())
    is_cast = x.dtype != layer.base_layer.weight.dtype or torch.is_autocast_enabled(x.device.type)
    return None if is_dropping or is_learned or is_cast or layer.lora_bias[names[0]] else names[0]
