"""The optimiser and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from hantune.config.schema import TrainSection
from hantune.train import lean


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are learned, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_name(section: TrainSection, device: torch.device) -> str:
    """The optimiser in use: what is asked for, on a CPU without the paging, which moves states off a card."""
    return section.optimizer if device.type == "cuda" else section.optimizer.removeprefix("paged_")


def make_optimizer(parameters: Mapping[str, nn.Parameter], section: TrainSection) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) over ``parameters`` by name; vectors (norms, biases) are not decayed.

    A group's ``factor`` is its learning rate over the schedule's: B learns faster than A in LoRA+ (Hayou et al. 2024).
    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    sorted_in: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = section.weight_decay if parameter.ndim >= 2 else 0.0
        factor = section.lora_plus_ratio if ".lora_B." in name else 1.0
        sorted_in.setdefault((decay, factor), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": its, "weight_decay": decay, "factor": factor} for (decay, factor), its in sorted_in.items()
    ]
    kind = optimizer_name(section, next(iter(parameters.values())).device)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=section.learning_rate, fused=True)
    return lean.make_lean(kind, groups, lr=section.learning_rate)


def state_bytes(parameters: Iterable[nn.Parameter], section: TrainSection) -> int:
    """What the optimiser's moments will take of the device's memory, at most."""
    total = 0
    for parameter in parameters:
        kind = optimizer_name(section, parameter.device)
        in_8_bits = kind.endswith("8bit") and parameter.numel() >= lean.SMALLEST
        total += parameter.numel() * 2 if in_8_bits else parameter.numel() * 8
    return total


def learning_rate_at(step: float, total_steps: float, section: TrainSection) -> float:
    """The learning rate of step 0, 1, ... ``total_steps - 1``: linear warm-up, then the schedule down to 0.

    A pure function, so a resumed run needs no scheduler state; ``Course.place`` gives steps that are no whole numbers.
    """
    peak = section.learning_rate
    warmup = round(total_steps * section.warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    if section.schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total_steps - warmup)
    if section.schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
