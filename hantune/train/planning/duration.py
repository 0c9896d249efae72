"""How long a run will take on this machine, from a few of its own micro-batches run beforehand.

A micro-batch takes a moment of its own and then so much for each FLOP (``flops``): a line through what was
measured on a typical and a small one. Trials leave no trace (``train/trial``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hantune.config.schema import RunConfig
from hantune.data.batch import Batch
from hantune.models.call import evaluating
from hantune.models.loss import supervised_nats
from hantune.train.feed import Feed
from hantune.train.floor import Work, matmul_rate
from hantune.train.optim import make_optimizer, state_bytes, trained_parameters
from hantune.train.plan import Plan
from hantune.train.planning.flops import Volume, flop_of, volume_of, work_or_guess
from hantune.train.setup import Material
from hantune.train.step import DoesNotFit
from hantune.train.trial import try_batches

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hantune.train.planning.outlook import Outlook

MOST_SHARE = 0.02
"""Trials that would take more of a run's time than this are left out."""
TRIALS = 3
"""How often each of the two micro-batches is tried."""
STAND_IN_NUMBERS = 16_000_000
"""Parameters on which the optimiser's update is timed; the run's own are not touched."""
SAVED_BYTES_PER_SECOND = 300e6
"""A checkpoint is written, hashed and synced at about this rate."""
FLOOR_SHARE = 0.6
"""Where nothing was tried: a step reaches about this share of the machine's rate of matrix products."""
FORWARD_SHARE = 0.45
"""The forward pass of evaluation beside forward and backward, where nothing was tried."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Seconds of a run by what they are spent on. ``is_measured``: by trials of its own micro-batches."""

    training: float
    evaluation: float
    probes: float
    saving: float
    is_measured: bool

    @property
    def total(self) -> float:
        return self.training + self.evaluation + self.probes + self.saving

    def as_dict(self) -> dict[str, float | bool]:
        """For ``plan.json``."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds: ``batch`` for a micro-batch and ``flop`` for each of its FLOP, forward and back; the same for the
    forward pass of evaluation; ``update`` for one of the optimiser."""

    batch: float
    flop: float
    forward_batch: float
    forward_flop: float
    update: float
    is_measured: bool = True

    def run(self, volume: Volume, plan: Plan, bytes_per_save: int) -> Duration:
        """How long a run takes."""
        times = plan.still_to_come(0)
        training = volume.batches * self.batch + volume.flop * self.flop + plan.total_steps * self.update
        evaluation = volume.evaluation_batches * self.forward_batch + volume.evaluation_flop * self.forward_flop
        return Duration(
            training=training,
            evaluation=(1 + times["eval"]) * evaluation,
            probes=plan.probes.share * training,
            saving=times["save"] * bytes_per_save / SAVED_BYTES_PER_SECOND,
            is_measured=self.is_measured,
        )


def expected_duration(outlook: Outlook) -> Duration | None:
    """How long a run takes where nothing of it was tried, by how fast this machine multiplies: known to a factor of
    about two. None for cards that are not here."""
    if not outlook.target.is_here:
        return None
    rows = max(64, round(outlook.volume.tokens / outlook.volume.batches))
    device, dtype = outlook.target.device, outlook.precision.compute
    second = 1 / (FLOOR_SHARE * matmul_rate(device, dtype, rows=rows, shape=outlook.work.shape))
    slower = 4 / 3 if outlook.recompute.is_on else 1.0
    speed = Speed(
        batch=0.0,
        flop=slower * second,
        forward_batch=0.0,
        forward_flop=FORWARD_SHARE * second,
        update=0.0,
        is_measured=False,
    )
    return speed.run(outlook.volume, outlook.plan, outlook.disk.checkpoint)


def calibrate(
    config: RunConfig, material: Material, plan: Plan, model: nn.Module, accelerator: Accelerator, *, most_share: float
) -> Duration | None:
    """How long the run will take; None where trials would take more than ``most_share`` of it, or nothing fits.

    Law: no weight, gradient, moment or generator is changed.
    """
    feed = Feed(material.train, plan, config.train, pad_id=material.encoder.pad_id)
    work = work_or_guess(model)
    volume = volume_of(feed, plan, material, work)
    batches = chosen_batches(feed, volume)
    if sum(flop_of(batch, work) for batch in batches) > most_share * volume.flop:
        return None
    try:
        speed = measured_speed(config, model, accelerator, batches, work)
    except DoesNotFit:
        return None
    return speed.run(volume, plan, save_bytes(config, model))


def save_bytes(config: RunConfig, model: nn.Module) -> int:
    """What one checkpoint takes."""
    learned = trained_parameters(model).values()
    return state_bytes(learned, config.train) + sum(p.numel() * p.element_size() for p in learned)


def chosen_batches(feed: Feed, volume: Volume) -> list[Batch]:
    """A typical micro-batch (half of the work is done in larger ones) and a small one, three times each in turn.

    The first one of all warms up the libraries. Three, so that a disturbance has to hit all of a kind to be counted.
    """
    done = np.cumsum([size for size, _ in volume.sizes])
    middle = int(np.searchsorted(done, done[-1] / 2))
    typical, small = (feed.collate(volume.sizes[place][1]) for place in (middle, len(done) // 10))
    return [typical, *(typical, small) * TRIALS]


def measured_speed(
    config: RunConfig, model: nn.Module, accelerator: Accelerator, batches: Sequence[Batch], work: Work
) -> Speed:
    """The speed of this machine on micro-batches of the run; the first of them only warms up.

    Raises: DoesNotFit.
    """
    costs = try_batches(model, accelerator, config.train, batches)[1:]
    flop = [flop_of(batch, work) for batch in batches[1:]]
    batch, per_flop = line(flop, [cost.seconds for cost in costs])
    forward = [_forward_seconds(model, accelerator, batch) for batch in batches[1:]]
    forward_batch, forward_flop = line(flop, forward)
    return Speed(
        batch=batch,
        flop=per_flop,
        forward_batch=forward_batch,
        forward_flop=forward_flop,
        update=_update_seconds(config, model, accelerator.device),
    )


def line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(start, slope) of the line through the quickest of the largest and the quickest of the smallest; neither is
    negative. What else runs on the machine only ever makes a trial longer, so the quickest was disturbed the least."""
    low, high = min(sizes), max(sizes)
    at_low, at_high = (
        min(second for size, second in zip(sizes, seconds, strict=True) if size == end) for end in (low, high)
    )
    if high < 1.2 * low:  # all of one size: nothing tells the two apart
        return 0.0, at_high / high
    slope = min(max(0.0, (at_high - at_low) / (high - low)), at_high / high)
    return at_high - slope * high, slope


def _forward_seconds(model: nn.Module, accelerator: Accelerator, batch: Batch) -> float:
    with evaluating(model), torch.no_grad(), accelerator.autocast():
        start = time.perf_counter()
        float(supervised_nats(model, batch.to(accelerator.device))[0])
        return time.perf_counter() - start


def _update_seconds(config: RunConfig, model: nn.Module, device: torch.device) -> float:
    """One update of all that is learned, timed on a parameter of its own."""
    numbers = sum(p.numel() for p in trained_parameters(model).values())
    part = max(1, min(numbers, STAND_IN_NUMBERS))
    parameter = nn.Parameter(torch.zeros(1, part, device=device))
    optimizer = make_optimizer({"stand-in": parameter}, config.train)
    seconds = []
    for _ in range(1 + TRIALS):
        parameter.grad = torch.zeros_like(parameter)
        start = time.perf_counter()
        nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) * numbers / part
