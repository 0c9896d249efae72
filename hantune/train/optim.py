"""The optimiser and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from hantune.config.schema import TrainSection


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are learned, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_optimizer(parameters: Mapping[str, nn.Parameter], section: TrainSection) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over ``parameters`` by name; vectors (norms, biases) are not decayed.

    A group's ``factor`` is its learning rate over the schedule's: B learns faster than A in LoRA+ (Hayou et al. 2024).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = section.weight_decay if parameter.ndim >= 2 else 0.0
        factor = section.lora_plus_ratio if ".lora_B." in name else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": its, "weight_decay": decay, "factor": factor} for (decay, factor), its in groups.items()],
        lr=section.learning_rate,
        fused=True,
    )


def learning_rate_at(step: int, total_steps: int, section: TrainSection) -> float:
    """The learning rate of step 0, 1, ... ``total_steps - 1``: linear warm-up, then the schedule down to 0.

    A pure function, so a resumed run needs no scheduler state.
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
