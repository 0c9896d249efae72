"""How long a run will take on this machine, from a few of its own micro-batches run beforehand.

A micro-batch takes a moment of its own and then so much for each unit of work (``train/work``): a line through what was
measured on a typical and a small one. Trials leave no trace (``train/trial``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hantune.config.schema import RunConfig
from hantune.data.batch import Batch
from hantune.models.call import bare_model, evaluating, model_inputs
from hantune.models.loss import supervised_nats
from hantune.train.feed import Feed
from hantune.train.optim import make_optimizer, trained_parameters
from hantune.train.plan import Plan
from hantune.train.setup import Material
from hantune.train.step import DoesNotFit
from hantune.train.trial import try_batches
from hantune.train.work import Rates, Work, count_work, micro_batches_of, rates_of

if TYPE_CHECKING:
    from accelerate import Accelerator

MOST_SHARE = 0.02
"""Trials that would take more of a run's time than this are left out."""
STAND_IN_NUMBERS = 4_000_000
"""Parameters on which the optimiser's update is timed; the run's own are not touched."""
SAVED_BYTES_PER_SECOND = 300e6
"""A checkpoint is written, hashed and synced at about this rate."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds: ``batch`` for a micro-batch, ``unit`` for each unit of its work, forward and back; the same for the
    forward pass of evaluation; ``update`` for one of the optimiser, ``word`` for one pass of the probes."""

    batch: float
    unit: float
    forward_batch: float
    forward_unit: float
    update: float
    word: float

    def run(self, work: Work, config: RunConfig, bytes_per_save: int, saves: int) -> Duration:
        """How long a run with this work takes."""
        evaluation = work.evaluation_batches * self.forward_batch + work.evaluation_units * self.forward_unit
        words = config.eval.probe_max_tokens if config.eval.probes else 0
        return Duration(
            training=work.batches * self.batch + work.units * self.unit + work.steps * self.update,
            evaluation=work.evaluations * evaluation,
            probes=work.evaluations * words * self.word,
            saving=saves * bytes_per_save / SAVED_BYTES_PER_SECOND,
        )


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Seconds of a run by what they are spent on."""

    training: float
    evaluation: float
    probes: float
    saving: float

    @property
    def total(self) -> float:
        return self.training + self.evaluation + self.probes + self.saving

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in {**asdict(self), "total": self.total}.items()}


def calibrate(
    config: RunConfig, material: Material, plan: Plan, model: nn.Module, accelerator: Accelerator
) -> Duration | None:
    """How long the run will take; None where it is so short that finding out is not worth it, or nothing fits.

    Law: no weight, gradient, moment or generator is changed.
    """
    feed = Feed(material.train, plan, config.train, pad_id=material.encoder.pad_id)
    rates = rates_of(model, config)
    work = count_work(feed, plan, material, rates)
    chosen = _chosen(feed, plan, material, rates)
    if sum(rates.of_batch(batch) for batch in chosen) > MOST_SHARE * work.units:
        return None
    try:
        speed = measure_speed(config, model, accelerator, chosen, rates, len(config.eval.probes))
    except DoesNotFit:
        return None
    learned = sum(p.numel() * p.element_size() for p in trained_parameters(model).values())
    return speed.run(work, config, 3 * learned, saves=-(-plan.total_steps // plan.save_every))


def _chosen(feed: Feed, plan: Plan, material: Material, rates: Rates) -> list[Batch]:
    """A small micro-batch, and three times one in which half of the run's work is done or less: it warms up first."""
    batches = sorted(micro_batches_of(feed, plan, material, rates))
    half, done = sum(size for size, _ in batches) / 2, 0.0
    for _size, _cut in batches:
        done += _size
        if done >= half:
            break
    small, typical = feed.collate(batches[len(batches) // 10][1]), feed.collate(_cut)
    return [typical, typical, small, typical]


def measure_speed(
    config: RunConfig, model: nn.Module, accelerator: Accelerator, batches: Sequence[Batch], rates: Rates, probes: int
) -> Speed:
    """The speed of this machine on micro-batches of the run; the first of them only warms up.

    Raises: DoesNotFit.
    """
    costs = try_batches(model, accelerator, config.train, batches)[1:]
    units = [rates.of_batch(batch) for batch in batches[1:]]
    batch, unit = _line(units, [cost.seconds for cost in costs])
    seconds = [_forward_seconds(model, accelerator, batch) for batch in batches[1:]]
    forward_batch, forward_unit = _line(units, seconds)
    return Speed(
        batch=batch,
        unit=unit,
        forward_batch=forward_batch,
        forward_unit=forward_unit,
        update=_update_seconds(config, model, accelerator.device),
        word=_word_seconds(model, accelerator, probes),
    )


def _line(units: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(start, slope) of the line through the mean of the largest and the mean of the smallest; neither is negative."""
    low, high = min(units), max(units)
    at_low, at_high = (
        _mean([s for u, s in zip(units, seconds, strict=True) if u == end]) for end in (low, high)
    )
    if high < 1.2 * low:  # of one size: nothing tells the two apart
        return 0.0, at_high / high
    slope = min(max(0.0, (at_high - at_low) / (high - low)), at_high / high)
    return at_high - slope * high, slope


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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
    for _ in range(2):
        parameter.grad = torch.zeros_like(parameter)
        start = time.perf_counter()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * numbers / part


def _word_seconds(model: nn.Module, accelerator: Accelerator, probes: int) -> float:
    """One more token for each probe."""
    bare = bare_model(model)
    tokens_BT = torch.zeros(max(1, probes), 1, dtype=torch.long, device=accelerator.device)
    with evaluating(model), torch.no_grad(), accelerator.autocast():
        for _ in range(2):
            start = time.perf_counter()
            bare(**model_inputs(bare, tokens_BT, use_cache=False)).logits.sum().item()
    return time.perf_counter() - start


def as_dict(duration: Duration | None) -> dict[str, Any] | None:
    return None if duration is None else duration.as_dict()
