"""Training on a base in 8 or 4 bits: its layers compute with the dense weight, made for each pass and forgotten.

Not with bitsandbytes' own forward. On a CPU with AVX512-BF16 its 4-bit layers repack their weights at the first
evaluation, for a kernel that rounds the scales and has no gradient: afterwards nothing is learned below such a layer,
and no error says so. Its 8-bit layers also round the activations, on a CPU in evaluation only. Here training,
evaluation and the merge see one and the same weight, and evaluating changes nothing.

Shape letters: N tokens, I inputs, O outputs.
Source: Dettmers et al., QLoRA (2023).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from hantune.models.prepack import is_prepacked, product, product_back
from hantune.models.quantize import is_quantized


class _FrozenLinear(torch.autograd.Function):
    """``x W^T + bias`` with a frozen layer's W, which is made anew in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return product(x, layer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return product_back(grad, ctx.layer), None


def compute_densely(model: nn.Module) -> int:
    """How many layers of the model are held in fewer bits or prepacked; gradients pass through them from now on."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and (is_quantized(m) or is_prepacked(m))]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    return len(layers)


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's output, in the type of autocast where that is on, else of the input."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return torch.as_tensor(_FrozenLinear.apply(x.to(dtype), layer))  # type: ignore[no-untyped-call]
