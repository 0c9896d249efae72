"""Micro-batches run to see what they take, and nothing else: no weight, gradient or generator is left changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch
from hantune.models.memory import measured_peak
from hantune.train.checkpoint import restore_rng, rng_tensors
from hantune.train.step import add_gradients

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Forward and backward of one micro-batch: wall seconds, and bytes at the peak (None where nothing tells).

    ``peak_bytes``: all that was held then, weights and all; ``grown_bytes``: what came on top of before. On a card
    these are its tensors, on a CPU the whole process. ``positions``: tokens computed, padding too.
    """

    positions: int
    num_tokens: int
    seconds: float
    peak_bytes: int | None
    grown_bytes: int | None


def try_batches(
    model: nn.Module, accelerator: Accelerator, section: TrainSection, batches: Sequence[Batch]
) -> list[Cost]:
    """What each micro-batch takes, in order; the first of a process also warms up libraries and kernels.

    Law: a run that was preceded by any number of trials is bit-identical to one that was not.
    Raises: DoesNotFit, with nothing left behind either.
    """
    rng, was_training = rng_tensors(), model.training
    model.train()
    try:
        return [_cost(model, accelerator, section, batch) for batch in batches]
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        restore_rng(rng)


def _cost(model: nn.Module, accelerator: Accelerator, section: TrainSection, batch: Batch) -> Cost:
    device = accelerator.device
    with measured_peak(device) as peak:
        start = time.perf_counter()
        add_gradients(model, accelerator, section, batch, supervised=max(1, batch.num_supervised))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return Cost(
        positions=batch.tokens_BT.numel(),
        num_tokens=batch.num_tokens,
        seconds=seconds,
        peak_bytes=peak.bytes,
        grown_bytes=peak.grown,
    )
