"""Liger's kernels on a card: norm, MLP, rotary positions and the head's loss in one pass over the data each.

Each is taken only if it gives what the model's own code gives on a few random rows of this card; a kernel that does not
compile there, or gives other numbers, is left out, and the rest of the run goes on without it.
Source: Hsu et al., Liger Kernel (2024); the calls are those of liger-kernel 0.8.5.

Shape letters: N rows, D width, V vocabulary, H heads, T positions, E head width.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from hantune.models import head as heads
from hantune.models.call import bare_model
from hantune.train.lora_kernels import project

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")
"""Classes of transformers whose formulas are Liger's with the settings used here."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far a kernel's outputs and gradients may lie from the model's own, relative."""
ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Which kernels of Liger a run computes with, and why not the others."""

    names: tuple[str, ...]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return {"names": list(self.names), "reason": self.reason}


def use_liger(model: nn.Module, device: torch.device) -> Kernels:
    """Put Liger's kernels to work in a model on a card; says which, and why."""
    if device.type != "cuda":
        return Kernels(names=(), reason="Liger 的核只用在显卡上")
    try:
        liger = importlib.import_module("liger_kernel.transformers.functional")
    except Exception as error:  # missing, or there without the Triton that it needs
        return Kernels(names=(), reason=f"{type(error).__name__}; 要用就装 liger-kernel: pip install liger-kernel")
    bare = bare_model(model)
    ways: dict[str, Callable[[Any, Any], bool]] = {
        "RMSNorm": _use_norm, "SwiGLU": _use_mlp, "RoPE": _use_rope, "CrossEntropy": _use_loss
    }  # fmt: skip
    used = tuple(name for name, use in ways.items() if use(bare, liger))
    left = [name for name in ways if name not in used]
    reason = f"liger-kernel {metadata.version('liger-kernel')}"
    return Kernels(names=used, reason=reason + (f"; 没有用 {', '.join(left)}: 这个模型或显卡用不了" if left else ""))


def _use_norm(bare: Any, liger: Any) -> bool:
    def forward(module: Any, x: Tensor) -> Tensor:
        return torch.as_tensor(
            liger.liger_rms_norm(x, module.weight, module.variance_epsilon, 0.0, "llama", False)
        )

    return _replace(bare, NORMS, forward, lambda module: module.weight)


def _use_mlp(bare: Any, liger: Any) -> bool:
    def forward(module: Any, x: Tensor) -> Tensor:
        return torch.as_tensor(module.down_proj(liger.liger_swiglu(*project((module.gate_proj, module.up_proj), x))))

    return _replace(bare, MLPS, forward, lambda module: module.gate_proj.weight)


def _replace(bare: Any, kinds: tuple[str, ...], forward: Any, like: Callable[[Any], Tensor]) -> bool:
    """Whether all modules of these classes compute by ``forward`` from now on."""
    modules = [module for module in bare.modules() if type(module).__name__ in kinds]
    if not modules:
        return False
    first = modules[0]
    width = first.weight.shape[-1] if hasattr(first, "weight") else first.gate_proj.in_features
    if not _agree(lambda x: forward(first, x), first, _random(ROWS, width, like=like(first))):
        return False
    for module in modules:
        module.forward = MethodType(forward, module)
    return True


def _use_rope(bare: Any, liger: Any) -> bool:
    """The function is one for all models of a family: Liger's takes its place where a card trains, nowhere else."""
    kinds = {type(module) for module in bare.modules() if type(module).__name__ in ATTENTIONS}
    family = sys.modules[next(iter(kinds)).__module__] if kinds else None
    own = getattr(family, "apply_rotary_pos_emb", None)
    if own is None:
        return False
    if not hasattr(own, "is_liger"):
        own = _rope_of(own, liger)
        head = bare.model.layers[0].self_attn.head_dim
        angles = _random(1, ROWS, head // 2, like=bare.lm_head.weight)
        cos_sin = [torch.cat([wave, wave], -1) for wave in (angles.cos(), angles.sin())]
        q_k = _random(1, ROWS, 2, head, like=bare.lm_head.weight)

        def turned(rotate: Any, x: Tensor) -> Tensor:
            x_HTE = x.clone().transpose(1, 2)  # Liger writes where it reads
            return torch.cat(rotate(x_HTE, x_HTE.clone(), *cos_sin), 1)

        if not _agree(lambda x: turned(own, x), lambda x: turned(own.model_own, x), q_k):
            return False
        family.apply_rotary_pos_emb = own  # type: ignore[union-attr]
    return True


def _rope_of(model_own: Any, liger: Any) -> Any:
    def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        if q.device.type == "cuda" and torch.is_grad_enabled():
            return liger.liger_rope(q, k, cos, sin, None, unsqueeze_dim)
        return model_own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)

    rope.is_liger, rope.model_own = True, model_own  # type: ignore[attr-defined]
    return rope


def _use_loss(bare: Any, liger: Any) -> bool:
    def loss(head: nn.Linear, rows_ND: Tensor, targets_N: Tensor, smoothing: float) -> Tensor:
        return torch.as_tensor(
            liger.liger_fused_linear_cross_entropy(
                rows_ND, head.weight, targets_N, head.bias, label_smoothing=smoothing, reduction="sum"
            )
        )

    head = bare.get_output_embeddings()
    if type(head) is not nn.Linear:
        return False
    targets_N = torch.arange(ROWS, device=head.weight.device)
    rows_ND = _random(ROWS, head.in_features, like=head.weight)
    own = heads.summed_cross_entropy
    if not _agree(lambda x: loss(head, x, targets_N, 0.1), lambda x: own(head, x, targets_N, smoothing=0.1), rows_ND):
        return False
    heads.use_loss(head, loss)
    return True


def _random(*shape: int, like: Tensor) -> Tensor:
    """Random numbers on the device of ``like`` and in its type, or in float32 where it is held in fewer bits."""
    dtype = like.dtype if like.is_floating_point() else torch.float32
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, dtype)


def _agree(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether outputs and the gradient of the input are the same both ways; a kernel may fail in any way."""
    found = []
    try:
        for way in (ours, theirs):
            given = x.clone().requires_grad_()
            y = way(given).float()
            (grad,) = torch.autograd.grad(y.square().sum(), given)  # leaves none in what is learned
            found.append((y.detach(), grad.float()))
    except Exception:
        return False
    limit = TOLERANCE.get(x.dtype, 1e-4)
    return all(bool((one - other).norm() <= limit * other.norm()) for one, other in zip(*found, strict=True))
