"""Memory for a model's weights: what they will need, from the headers of their files, and what they took."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from hantune.errors import MachineError
from hantune.log import size
from hantune.models.headers import tensor_places
from hantune.models.memory import free_memory
from hantune.models.quantize import LOADS

WEIGHT_BYTES = {"fp8": 1.0, "8bit": 1.0, "4bit": 0.5 + 1 / 64}
"""Of one weight of a quantised layer, with the scales (one byte for 64 weights in 4 bits)."""
NEVER_QUANTIZED = ("embed", "wte", "wpe", "lm_head")
"""Parts of the names of embeddings and heads."""


def weight_bytes(folder: Path, *, load: str, dtype: torch.dtype) -> int:
    """The bytes that the weights of ``folder`` take under ``load``, without a byte more for the work."""
    total = 0.0
    for name, (_, spec) in tensor_places(folder).items():
        is_quantized = load in WEIGHT_BYTES and len(spec.shape) == 2 and not any(p in name for p in NEVER_QUANTIZED)
        total += math.prod(spec.shape) * (WEIGHT_BYTES[load] if is_quantized else dtype.itemsize)
    return int(total)


def require_memory(folder: Path, *, load: str, dtype: torch.dtype, device: str) -> None:
    """Nothing, if the weights alone fit into what the device has free, or nobody knows what that is.

    Raises: MachineError ``model.no-memory``.
    """
    free = free_memory(torch.device(device))
    needed = weight_bytes(folder, load=load, dtype=dtype)
    if free is None or needed <= free:
        return
    others = {kind: weight_bytes(folder, load=kind, dtype=dtype) for kind in LOADS if kind != load}
    fitting = [f"--load {kind} ({size(number)})" for kind, number in others.items() if number < free]
    where = "显存" if device.startswith("cuda") else "内存"
    raise MachineError(
        "model.no-memory",
        f"{where}放不下这个模型: 权重就要 {size(needed)} ({load}, {str(dtype).removeprefix('torch.')}), "
        f"只剩 {size(free)}. 还没有开始装",
        place=str(folder),
        hint=f"放得下的: {', '.join(fitting)}; 训练时写 model.load" if fitting else "换小一点的模型, 或先关掉别的程序",
    )


def held_bytes(model: Any) -> int:
    """The bytes of a model's weights as they lie in memory, scales of quantised ones included."""
    held: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        state = getattr(tensor, "quant_state", None)
        scales = [getattr(tensor, name, None) for name in ("SCB", "scales_O1")]
        scales += [*_tensors(state), *_tensors(getattr(state, "state2", None))]
        for part in (tensor, *scales):
            if isinstance(part, torch.Tensor):
                held[part.data_ptr()] = part.nbytes
    return sum(held.values())


def _tensors(state: Any) -> list[Any]:
    return [getattr(state, name, None) for name in ("absmax", "code", "offset")]
