"""Norms, MLPs and attention layers of Llama's kind with fewer passes over the activations than autograd's own.

Shape letters: T tokens (any leading shape), D width, F width inside the MLP, H heads, K key heads, E head width.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from hantune.models.attention import attend
from hantune.train.formulas import in_use
from hantune.train.lora_kernels import project

ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention")
"""Classes of transformers whose forward pass is ``_attention``'s."""


class _RmsNorm(torch.autograd.Function):
    """``x / rms(x) * weight``, in float32 inside."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        y_TD, inverse_T1 = in_use().norm(x_TD, weight_D, epsilon)
        ctx.save_for_backward(x_TD, inverse_T1, weight_D)
        return torch.as_tensor(y_TD)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, inverse_T1, weight_D = ctx.saved_tensors
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = (grad_TD * (x_TD * inverse_T1)).flatten(0, -2).sum(0).to(weight_D.dtype)
        return in_use().d_norm(grad_TD, x_TD, inverse_T1, weight_D), d_weight, None


class _SwiGlu(torch.autograd.Function):
    """``silu(gate) * up``; going back, ``silu(gate)`` is computed again instead of kept."""

    @staticmethod
    def forward(ctx: Any, gate_TF: Tensor, up_TF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_TF, up_TF)
        return torch.as_tensor(in_use().swiglu(gate_TF, up_TF))

    @staticmethod
    def backward(ctx: Any, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
        gate_TF, up_TF = ctx.saved_tensors
        d_gate, d_up = in_use().d_swiglu(grad_TF, gate_TF, up_TF)
        return d_gate, d_up


class _Rotate(torch.autograd.Function):
    """Rotary positions: each head's halves turned by its token's angles; going back, turned the other way.

    The second half of cos and sin repeats the first.
    """

    @staticmethod
    def forward(ctx: Any, x_THE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TE, sin_TE)
        return torch.as_tensor(in_use().turn(x_THE, cos_TE, sin_TE))

    @staticmethod
    def backward(ctx: Any, grad_THE: Tensor) -> tuple[Tensor, None, None]:
        cos_TE, sin_TE = ctx.saved_tensors
        return in_use().turn(grad_THE, cos_TE, -sin_TE), None, None


def rotate(x_THE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Queries or keys at their positions, shape [T, H, E]."""
    return torch.as_tensor(_Rotate.apply(x_THE, cos_TE, sin_TE))  # type: ignore[no-untyped-call]


def fuse_pointwise(model: nn.Module) -> int:
    """How many norms and MLPs of the model are computed by these functions from now on.

    A module is taken when it is built like Llama's and one of its class gives the same numbers both ways.
    """
    ways = {_is_norm: _norm, _is_mlp: _mlp}
    same: dict[type, bool] = {}
    count = 0
    for module in model.modules():
        for is_such, forward in ways.items():
            if is_such(module):
                kind = type(module)
                same[kind] = same[kind] if kind in same else _is_same(module, forward)
                if same[kind]:
                    module.forward = MethodType(forward, module)
                    count += 1
    return count


def fuse_attention(model: nn.Module) -> int:
    """How many attention layers do packed rows by ``_attention`` from now on; other calls stay transformers'."""
    layers = [module for module in model.modules() if type(module).__name__ in ATTENTIONS]
    for layer in layers:
        layer.forward = MethodType(_attention, layer)
    return len(layers)


def _attention(module: Any, hidden_states: Tensor, *args: Any, documents: Any = None, **kwargs: Any) -> Any:
    """What the class's own forward gives, for one packed row, without turning heads and tokens around."""
    if documents is None or args:
        return type(module).forward(module, hidden_states, *args, **kwargs)
    cos_TE, sin_TE = (part[0] for part in kwargs["position_embeddings"])
    q_THE, k_TKE, v_TKE = (
        part[0].view(part.shape[1], -1, module.head_dim)
        for part in project((module.q_proj, module.k_proj, module.v_proj), hidden_states)
    )
    q_THE, k_TKE = rotate(q_THE, cos_TE, sin_TE), rotate(k_TKE, cos_TE, sin_TE)
    heads_THE = attend(q_THE, k_TKE, v_TKE, documents, module.scaling)
    return module.o_proj(heads_THE.flatten(1).unsqueeze(0)), None


def _is_norm(module: Any) -> bool:
    is_named = type(module).__name__.endswith("RMSNorm")
    return is_named and hasattr(module, "variance_epsilon") and hasattr(module, "weight")


def _is_mlp(module: Any) -> bool:
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return all(hasattr(module, part) for part in parts)


def _norm(module: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(_RmsNorm.apply(x, module.weight, module.variance_epsilon))  # type: ignore[no-untyped-call]


def _mlp(module: Any, x: Tensor) -> Tensor:
    inner = _SwiGlu.apply(*project((module.gate_proj, module.up_proj), x))  # type: ignore[no-untyped-call]
    return torch.as_tensor(module.down_proj(inner))


def _is_same(module: Any, forward: Any) -> bool:
    """Whether both ways agree on a few random tokens."""
    weight = module.weight if hasattr(module, "weight") else module.gate_proj.weight
    width = weight.shape[-1] if hasattr(module, "weight") else module.gate_proj.in_features
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, width, generator=draw).to(weight.device)
    x = x.to(weight.dtype) if weight.is_floating_point() else x  # a weight in 8 or 4 bits takes any
    with torch.no_grad():
        try:
            ours, theirs = forward(module, x).float(), module(x).float()
        except (RuntimeError, TypeError):
            return False
    return bool((ours - theirs).norm() <= 1e-2 * theirs.norm())
