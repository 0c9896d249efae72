"""The optimiser and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from hantune.config.schema import TrainSection
from hantune.train.lean import make_lean


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are learned, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_name(section: TrainSection, device: torch.device) -> str:
    """The optimiser in use: what is asked for, on a CPU without the paging, which moves states off a card."""
    return section.optimizer if device.type == "cuda" else section.optimizer.removeprefix("paged_")


def make_optimizer(parameters: Iterable[nn.Parameter], section: TrainSection) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); vectors (norms, biases) are not decayed.

    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    learned = list(parameters)
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    name = optimizer_name(section, learned[0].device)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=section.learning_rate, fused=True)
    return make_lean(name, groups, lr=section.learning_rate)


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
