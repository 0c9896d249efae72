"""bitsandbytes' AdamW: both moments in 8 bits (a scale for each run of 256), or in pages that leave a full card.

On a CPU its 8-bit update makes about six float32 copies of a whole parameter; for a large embedding that is more than
what 8 bits save. Here it gets a run of weights at a time: the same bits, 0.2 instead of 0.9 GB for 110M weights.
Source: Dettmers et al., 8-bit optimizers via block-wise quantization (2021).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from hantune.models.quantize import library

CLASSES = {"adamw8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw8bit": "PagedAdamW8bit"}
"""``train.optimizer`` -> the class of bitsandbytes.optim."""
BLOCK = 256
"""Weights that share a scale."""
SMALLEST = 4096
"""Parameters with fewer weights keep float32 moments."""
RUN = 1024 * BLOCK
"""Weights that are updated at once on a CPU."""


def make_lean(name: str, groups: list[dict[str, Any]], *, lr: float) -> torch.optim.Optimizer:
    """The optimiser called ``name`` over these parameter groups.

    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    optimizer: Any = getattr(library("bitsandbytes.optim"), CLASSES[name])(groups, lr=lr)
    if all(parameter.device.type == "cpu" for group in groups for parameter in group["params"]):
        optimizer.update_step = MethodType(_update_in_runs, optimizer)
    return optimizer  # type: ignore[no-any-return]


@torch.no_grad()
def _update_in_runs(optimizer: Any, group: dict[str, Any], parameter: nn.Parameter, number: int, place: int) -> None:
    """One parameter's update, ``RUN`` weights at a time; small parameters have float32 states and are done at once."""
    slots = optimizer.state[parameter]
    if slots["state1"].dtype != torch.uint8:
        type(optimizer).update_step(optimizer, group, parameter, number, place)
        return
    slots["step"] += 1
    config = optimizer.get_config(number, place, group)
    assert parameter.grad is not None
    parameter.data = parameter.data.contiguous()
    flat = [tensor.reshape(-1) for tensor in (parameter.grad, parameter.data, slots["state1"], slots["state2"])]
    for start in range(0, parameter.numel(), RUN):
        scales = slice(start // BLOCK, -(-(start + RUN) // BLOCK))
        torch.ops.bitsandbytes.optimizer_update_8bit_blockwise(
            "adam", *(tensor[start : start + RUN] for tensor in flat), *config["betas"], 0.0, 0.0, config["eps"],
            slots["step"], config["lr"], slots["qmap1"], slots["qmap2"], slots["absmax1"][scales],
            slots["absmax2"][scales], config["weight_decay"], 1.0, False,
        )  # fmt: skip
