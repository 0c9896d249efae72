"""The accelerate object of a run: device, autocast, fp16 loss scaling. One process; more come with a later issue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hantune.train.precision import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """An accelerator for this device and precision; an earlier run of the same process is forgotten."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = precision.name if precision.needs_autocast else "no"
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)
