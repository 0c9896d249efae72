"""LoRA's linear layers as one autograd function: what PEFT computes, with fewer passes over the activations.

PEFT adds three tensors of the output's size (the base's result, the adapter's, the scaled one), casts the input to the
adapter's float32, and keeps both inputs for the backward pass. Here the adapter is added in place, in the input's type,
only the input and the R columns behind A are kept, and layers that read one input (q, k, v; gate, up) read it once.
The scaling goes into the R columns: on a CPU, torch 2.13's ``addmm`` in bf16 is two hundred times slower with a factor.
A base in 8 or 4 bits gives its dense weight once in each pass; it is never kept.

Shape letters: N tokens, I inputs, O outputs, R rank, S the ranks of a group together.
Source: Hu et al., LoRA (2021); gradients by hand: dB = dY^T H, dH = s dY B, dA = dH^T X, dX = dY W + dH A, H = s X A^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.models.fp8 import read_by
from hantune.models.prepack import product, product_back
from hantune.models.quantize import is_quantized


class _LoraLinears(torch.autograd.Function):
    """``x W^T + bias + scaling x A^T B^T`` for each (base with W and bias, scaling, A, B), with the bases frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bases: tuple[nn.Linear, ...], scalings: tuple[float, ...], *factors: Tensor
    ) -> tuple[Tensor, ...]:
        x_NI = x.reshape(-1, x.shape[-1])
        outputs, kept = [], []
        a_SI = _stacked(factors[::2], x.dtype)
        hidden_NS = F.linear(x_NI, a_SI)
        start = 0
        read = read_by(bases, x_NI)
        for base, scaling, a_RI, b_OR in zip(bases, scalings, factors[::2], factors[1::2], strict=True):
            hidden_NR = hidden_NS[:, start : start + len(a_RI)] * scaling
            y_NO = product(read, base).addmm_(hidden_NR, b_OR.to(x.dtype).T)
            outputs.append(y_NO.view(*x.shape[:-1], -1))
            kept += [a_RI, b_OR, hidden_NR]
            start += len(a_RI)
        ctx.save_for_backward(x_NI, *kept)
        ctx.bases, ctx.scalings = bases, scalings
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, *kept = ctx.saved_tensors
        a_s, b_s, hidden = kept[::3], kept[1::3], kept[2::3]
        d_hidden, d_bs, d_x_NI = [], [], None
        for base, scaling, grad, b_OR, hidden_NR in zip(ctx.bases, ctx.scalings, grads, b_s, hidden, strict=True):
            grad_NO = grad.reshape(-1, grad.shape[-1])
            d_hidden.append(F.linear(grad_NO, b_OR.to(grad.dtype).T.contiguous()).mul_(scaling))
            d_bs.append((hidden_NR.T @ grad_NO).T.to(b_OR.dtype))
            if ctx.needs_input_grad[0]:
                d_x_NI = product_back(grad_NO, base, onto=d_x_NI)
        d_hidden_NS = torch.cat(d_hidden, 1) if len(d_hidden) > 1 else d_hidden[0]
        d_as = (d_hidden_NS.T @ x_NI).split([len(a) for a in a_s])
        d_factors: list[Tensor] = []
        for a_RI, d_a, d_b in zip(a_s, d_as, d_bs, strict=True):
            d_factors += [d_a.to(a_RI.dtype), d_b]
        if d_x_NI is None:
            return None, None, None, *d_factors
        d_x_NI.addmm_(d_hidden_NS, _stacked(a_s, x_NI.dtype))
        return d_x_NI.view(*grads[0].shape[:-1], -1), None, None, *d_factors


def _stacked(parts: Sequence[Any], dtype: torch.dtype) -> Tensor:
    return torch.cat(tuple(parts)).to(dtype) if len(parts) > 1 else parts[0].to(dtype)


def fuse_lora(model: nn.Module) -> int:
    """How many of the model's LoRA layers are computed by ``_LoraLinears`` from now on; the others stay PEFT's.

    PEFT's own forward still runs where more than the plain formula is asked for: several or disabled adapters, dropout,
    DoRA, a base that is no linear layer, or one of another type than the input.
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


def project(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of layers that read the same input, LoRA's as one function where all of them are plain."""
    names = [_plain_adapter(layer, x) if _is_fused(layer) else None for layer in layers]
    if None in names:
        return tuple(layer(x) for layer in layers)
    return _apply(layers, [name for name in names if name is not None], x)


def _is_fused(layer: Any) -> bool:
    return getattr(layer.forward, "__func__", None) is _forward


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The layer's output."""
    name = _plain_adapter(layer, x) if not (args or kwargs) else None
    if name is None:
        output: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return output
    return _apply([layer], [name], x)[0]


def _apply(layers: Sequence[Any], names: Sequence[str], x: Tensor) -> tuple[Tensor, ...]:
    bases, scalings, factors = [], [], []
    for layer, name in zip(layers, names, strict=True):
        bases.append(layer.base_layer)
        scalings.append(layer.scaling[name])
        factors += [layer.lora_A[name].weight, layer.lora_B[name].weight]
    outputs: tuple[Tensor, ...] = _LoraLinears.apply(x, tuple(bases), tuple(scalings), *factors)  # type: ignore[no-untyped-call]
    return outputs


def _plain_adapter(layer: Any, x: Tensor) -> str | None:
    """The one adapter that is at work, if the formula is all that it is."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] in layer.lora_variant:
        return None
    dropout = layer.lora_dropout[names[0]]
    is_dropping = layer.training and not isinstance(dropout, nn.Identity)
    is_learned = any(parameter.requires_grad for parameter in layer.base_layer.parameters())
    is_cast = not is_quantized(layer.base_layer) and x.dtype != layer.base_layer.weight.dtype
    return None if is_dropping or is_learned or is_cast or layer.lora_bias[names[0]] else names[0]
