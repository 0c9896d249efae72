"""The accelerate object of a run: device, autocast, fp16 loss scaling. One process; more come with a later issue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hantune.train.precision import Precision

if TYPE_CHECKING:
    from accelerate import Accelerator


FIRST_SCALE, STEPS_TO_GROW = 2.0**12, 500
"""Of the fp16 loss scaler. With torch's 2^16 and 2,000 the first steps of a run overflow one after the other, and
three in a row look like a run that is broken (trap D1)."""


def make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """An accelerator for this device and precision; an earlier run of the same process is forgotten."""
    from accelerate import Accelerator, GradScalerKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = precision.name if precision.is_mixed else "no"
    scaling = GradScalerKwargs(init_scale=FIRST_SCALE, growth_interval=STEPS_TO_GROW)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed, kwargs_handlers=[scaling])
