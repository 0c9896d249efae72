"""How long a run will take on this machine, from a few of its own micro-batches run beforehand.

Training meets new shapes all the time, and evaluation pads where training packs: so the trials are micro-batches of
both, each a different one, and what it takes for a FLOP (``flops``) stands for its part of the work. They leave no
trace (``train/trial``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hantune.config.schema import RunConfig
from hantune.data.batch import Batch, collate_samples
from hantune.errors import is_out_of_memory
from hantune.models.call import evaluating
from hantune.models.loss import supervised_nats
from hantune.train.feed import Feed
from hantune.train.floor import Work, matmul_rate
from hantune.train.optim import make_optimizer, state_bytes, trained_parameters
from hantune.train.plan import Plan
from hantune.train.planning.flops import Cut, Volume, flop_of, volume_of, work_or_guess
from hantune.train.setup import Material
from hantune.train.step import DoesNotFit
from hantune.train.trial import try_batches

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hantune.train.planning.outlook import Outlook

MOST_SHARE = 0.02
"""Trials that would take more of a run's time than this are left out."""
PARTS = 2
"""So many equal parts of the work, of small and of large micro-batches, are tried."""
TRIALS = 2
"""So many micro-batches of training are tried in each part. What else runs on the machine only ever makes a trial
longer, so the quickest of them was disturbed the least."""
WARM_UP = 0.1
"""The micro-batch at which this share of the work is done, by rising size, warms up: a small one."""
UPDATES = 3
"""How often the optimiser's update is tried; the first one more warms up."""
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
    """Seconds: ``flop`` for each FLOP of training, forward and back; ``forward_flop`` for one of evaluation, counted as
    if it were trained; ``update`` for one of the optimiser."""

    flop: float
    forward_flop: float
    update: float
    is_measured: bool = True

    def run(self, volume: Volume, plan: Plan, bytes_per_save: int) -> Duration:
        """How long a run takes."""
        times = plan.still_to_come(0)
        training = volume.flop * self.flop + plan.total_steps * self.update
        return Duration(
            training=training,
            evaluation=(1 + times["eval"]) * volume.evaluation_flop * self.forward_flop,
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
        flop=slower * second,
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
    warm_up = volume.sizes[place_at(WARM_UP, volume.sizes)][1]
    batches = [feed.collate(cut) for cut in (warm_up, *spread(volume.sizes, TRIALS))]
    held_out = [
        collate_samples(material.val, cut, layout="sorted", pad_id=material.encoder.pad_id)
        for cut in spread(volume.evaluation_sizes, 1)
    ]
    trials = sum(flop_of(batch, work) for batch in batches)
    trials += FORWARD_SHARE * sum(flop_of(batch, work) for batch in held_out)
    if trials > most_share * volume.flop:
        return None
    try:
        training = _training_seconds(config, model, accelerator, batches, work)
        evaluation = [_forward_seconds(model, accelerator, batch) / flop_of(batch, work) for batch in held_out]
    except DoesNotFit:
        return None
    speed = Speed(
        flop=training,
        forward_flop=mean(evaluation) if evaluation else FORWARD_SHARE * training,
        update=_update_seconds(config, model, accelerator.device),
    )
    return speed.run(volume, plan, save_bytes(config, model))


def save_bytes(config: RunConfig, model: nn.Module) -> int:
    """What one checkpoint takes."""
    learned = trained_parameters(model).values()
    return state_bytes(learned, config.train) + sum(p.numel() * p.element_size() for p in learned)


def spread(sizes: Sequence[tuple[float, Cut]], each: int) -> list[Cut]:
    """By rising size: ``each`` neighbours from the middle of each of ``PARTS`` equal parts of the work."""
    if not sizes:
        return []
    middles = [place_at((part + 0.5) / PARTS, sizes) for part in range(PARTS)]
    firsts = [max(0, min(middle, len(sizes) - each)) for middle in middles]
    return [sizes[min(first + more, len(sizes) - 1)][1] for first in firsts for more in range(each)]


def place_at(share: float, sizes: Sequence[tuple[float, Cut]]) -> int:
    """The micro-batch, by rising size, at which this share of the work is done."""
    done = np.cumsum([size for size, _ in sizes])
    return int(np.searchsorted(done, done[-1] * share))


def _training_seconds(
    config: RunConfig, model: nn.Module, accelerator: Accelerator, batches: Sequence[Batch], work: Work
) -> float:
    """Seconds for each FLOP of training, by micro-batches that are ``spread``; the first of all warms up the libraries.

    Raises: DoesNotFit.
    """
    costs = try_batches(model, accelerator, config.train, batches)
    rates = [cost.seconds / flop_of(batch, work) for cost, batch in zip(costs, batches, strict=True)][1:]
    return mean(min(rates[start : start + TRIALS]) for start in range(0, len(rates), TRIALS))


def _forward_seconds(model: nn.Module, accelerator: Accelerator, batch: Batch) -> float:
    """Raises: DoesNotFit."""
    start = time.perf_counter()
    try:
        with evaluating(model), torch.no_grad(), accelerator.autocast():
            float(supervised_nats(model, batch.to(accelerator.device))[0])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(batch) from None
    return time.perf_counter() - start


def _update_seconds(config: RunConfig, model: nn.Module, device: torch.device) -> float:
    """One update of all that is learned, timed on a parameter of its own."""
    numbers = sum(p.numel() for p in trained_parameters(model).values())
    part = max(1, min(numbers, STAND_IN_NUMBERS))
    parameter = nn.Parameter(torch.zeros(1, part, device=device))
    optimizer = make_optimizer({"stand-in": parameter}, config.train)
    seconds = []
    for _ in range(1 + UPDATES):
        parameter.grad = torch.zeros_like(parameter)
        start = time.perf_counter()
        nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) * numbers / part
