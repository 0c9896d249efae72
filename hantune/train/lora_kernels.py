"""LoRA's linear layers as one autograd function: what PEFT computes, with fewer passes over the activations.

PEFT adds three tensors of the output's size (the base's result, the adapter's, the scaled one), casts the input to the
adapter's float32, and keeps both inputs for the backward pass. Here the adapter is added in place by one matrix
product, in the input's type, and only the input and the R columns behind A are kept. A base in 8 or 4 bits gives its
dense weight once in each pass.

Shape letters: N tokens, I inputs, O outputs, R rank.
Source: Hu et al., LoRA (2021); gradients by hand: dB = s dY^T H, dH = s dY B, dA = dH^T X, dX = dY W + dH A, H = X A^T.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.models.quantize import dense_weight, is_quantized


class _LoraLinear(torch.autograd.Function):
    """``x W^T + bias + scaling x A^T B^T`` with W and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scaling: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        hidden_NR = x_NI @ a_RI.to(x.dtype).T
        bias_O = None if base.bias is None else base.bias.to(x.dtype)
        y_NO = F.linear(x_NI, dense_weight(base, x.dtype), bias_O)
        y_NO.addmm_(hidden_NR, b_OR.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(x_NI, a_RI, b_OR, hidden_NR)
        ctx.base, ctx.scaling = base, scaling
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, a_RI, b_OR, hidden_NR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = (grad_NO @ b_OR.to(grad.dtype)).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_NI = grad_NO @ dense_weight(ctx.base, grad.dtype)
            grad_x = grad_NI.addmm_(grad_NR, a_RI.to(grad.dtype)).view(*grad.shape[:-1], -1)
        grad_a = (grad_NR.T @ x_NI).to(a_RI.dtype)
        grad_b = (grad_NO.T @ hidden_NR).mul_(ctx.scaling).to(b_OR.dtype)
        return grad_x, None, grad_a, grad_b, None


def fuse_lora(model: nn.Module) -> int:
    """How many of the model's LoRA layers are computed by ``_LoraLinear`` from now on; the others stay PEFT's.

    PEFT's own forward still runs where more than the plain formula is asked for: several or disabled adapters, dropout,
    DoRA, autocast, a base that is no plain linear layer of the input's type.
    """
    layers = [module for module in model.modules() if _is_linear(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_linear(module: nn.Module) -> bool:
    """Whether this is LoRA around a plain linear layer, or around one in 8 or 4 bits."""
    from peft.tuners.lora.layer import Linear, LoraLayer

    base = module.base_layer if isinstance(module, LoraLayer) else nn.Identity()
    return is_quantized(base) or (type(module) is Linear and type(base) is nn.Linear)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The layer's output."""
    name = _plain_adapter(layer, x) if not (args or kwargs) else None
    if name is None:
        output: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return output
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return torch.as_tensor(_LoraLinear.apply(x, layer.base_layer, a, b, layer.scaling[name]))  # type: ignore[no-untyped-call]


def _plain_adapter(layer: Any, x: Tensor) -> str | None:
    """The one adapter that is at work, if the formula is all that it is."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] in layer.lora_variant:
        return None
    dropout = layer.lora_dropout[names[0]]
    is_dropping = layer.training and not isinstance(dropout, nn.Identity)
    is_learned = any(parameter.requires_grad for parameter in layer.base_layer.parameters())
    is_other_type = not is_quantized(layer.base_layer) and x.dtype != layer.base_layer.weight.dtype
    is_cast = is_other_type or torch.is_autocast_enabled(x.device.type)
    return None if is_dropping or is_learned or is_cast or layer.lora_bias[names[0]] else names[0]
