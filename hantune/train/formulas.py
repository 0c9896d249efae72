"""The element-wise formulas of a Llama layer and their derivatives, in two forms that agree.

``EAGER`` uses few kernels of torch's own and keeps what it touches in the cache. ``PLAIN`` is written for a compiler,
which makes one kernel of each. ``in_use()`` is what ``train/pointwise`` computes with: a choice of the process, made
once per run and kept in its plan, because the two round differently.

Shape letters: T tokens (any leading shape), D width, F width inside the MLP, H heads, E head width.
Sources: Zhang & Sennrich, RMSNorm (2019); Shazeer, GLU variants (2020); Su et al., RoFormer (2021), half-split form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ROWS = 256
"""Tokens whose float32 intermediates stay in the cache: 1.8 times faster than 2,000 at once (width 768)."""


class Formulas(NamedTuple):
    """``norm(x, weight, epsilon)`` gives y and 1 / rms; ``d_norm(grad, x, inverse, weight)`` the gradient of x;
    ``swiglu(gate, up)``; ``d_swiglu(grad, gate, up)`` both gradients; ``turn(x, cos, sin)`` turns half-split heads."""

    norm: Callable[..., Any]
    d_norm: Callable[..., Any]
    swiglu: Callable[..., Any]
    d_swiglu: Callable[..., Any]
    turn: Callable[..., Any]


def _norm(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True, dtype=torch.float32)
    inverse_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(epsilon).rsqrt_()
    return torch.mul((x_TD * inverse_T1).to(x_TD.dtype), weight_D), inverse_T1


def _d_norm(grad_TD: Tensor, x_TD: Tensor, inverse_T1: Tensor, weight_D: Tensor) -> Tensor:
    d_x_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    flat = (tensor.flatten(0, -2) for tensor in (grad_TD, x_TD, inverse_T1, d_x_TD))
    blocks = zip(*(torch.split(tensor, BLOCK_ROWS) for tensor in flat), strict=True)
    for grad, x, inverse, d_x in blocks:
        d_normed = grad * weight_D
        along = inverse.pow(3).mul_((d_normed.float() * x).sum(-1, keepdim=True)).div_(x.shape[-1])
        d_x.copy_((d_normed * inverse).sub_(x * along))
    return d_x_TD


def _swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    return F.silu(gate_TF).mul_(up_TF)


def _d_swiglu(grad_TF: Tensor, gate_TF: Tensor, up_TF: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.silu_backward(grad_TF * up_TF, gate_TF), F.silu(gate_TF).mul_(grad_TF)


def _turn(x_THE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    half = x_THE.shape[-1] // 2
    sin_T1E = sin_TE[:, None, :half]
    turned = x_THE * cos_TE[:, None]
    turned[..., :half].addcmul_(x_THE[..., half:], sin_T1E, value=-1)
    turned[..., half:].addcmul_(x_THE[..., :half], sin_T1E)
    return turned


def _plain_norm(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide = x_TD.float()
    inverse_T1 = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * inverse_T1).to(x_TD.dtype) * weight_D, inverse_T1


def _plain_d_norm(grad_TD: Tensor, x_TD: Tensor, inverse_T1: Tensor, weight_D: Tensor) -> Tensor:
    d_normed, wide = (grad_TD * weight_D).float(), x_TD.float()
    along_T1 = inverse_T1.pow(3) * (d_normed * wide).mean(-1, keepdim=True)
    return (d_normed * inverse_T1 - wide * along_T1).to(x_TD.dtype)


def _plain_swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    return (F.silu(gate_TF.float()) * up_TF).to(gate_TF.dtype)


def _plain_d_swiglu(grad_TF: Tensor, gate_TF: Tensor, up_TF: Tensor) -> tuple[Tensor, Tensor]:
    gate, grad = gate_TF.float(), grad_TF.float()
    share = torch.sigmoid(gate)
    d_gate = grad * up_TF * share * (1 + gate * (1 - share))
    return d_gate.to(gate_TF.dtype), (grad * gate * share).to(up_TF.dtype)


def _plain_turn(x_THE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    half = x_THE.shape[-1] // 2
    cos, sin = cos_TE[:, None, :half].float(), sin_TE[:, None, :half].float()
    left, right = x_THE[..., :half].float(), x_THE[..., half:].float()
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1).to(x_THE.dtype)


EAGER = Formulas(_norm, _d_norm, _swiglu, _d_swiglu, _turn)
PLAIN = Formulas(_plain_norm, _plain_d_norm, _plain_swiglu, _plain_d_swiglu, _plain_turn)

_in_use = EAGER


def in_use() -> Formulas:
    """The formulas of this process."""
    return _in_use


def use(formulas: Formulas) -> None:
    """Compute with these from now on."""
    global _in_use
    _in_use = formulas
