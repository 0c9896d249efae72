"""What a run will be, told before its weights are loaded: steps, memory, disk, work; and whether it fits."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hantune.config.schema import RunConfig
from hantune.models.headers import tensor_places
from hantune.models.hub import local_folder
from hantune.train.estimate import Disk, Largest, Memory, estimate_disk, estimate_memory
from hantune.train.feed import Feed
from hantune.train.plan import Plan, make_plan
from hantune.train.precision import Precision, choose_precision
from hantune.train.rehearsal import Rehearsal
from hantune.train.setup import Material
from hantune.train.target import Target
from hantune.train.work import Work, count_work, rates_of

NEAR = 0.9
"""A run that needs more than this share of what is free is told that it is tight."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """``parameters``: numbers in the model, ``learned``: those that are trained; ``free_disk``: bytes where it writes."""

    plan: Plan
    precision: Precision
    target: Target
    memory: Memory
    largest: Largest
    disk: Disk
    free_disk: int
    work: Work
    parameters: int
    learned: int

    @property
    def fits(self) -> bool:
        """Whether the memory is enough; yes where the system does not tell how much there is."""
        return self.target.room is None or self.memory.least <= self.target.room

    @property
    def is_tight(self) -> bool:
        return self.target.room is not None and self.memory.least > NEAR * self.target.room

    @property
    def held(self) -> int:
        """Bytes at the peak: with the holes that the room leaves."""
        if self.target.room is None:
            return self.memory.peak
        return max(self.memory.least, min(self.memory.peak, self.target.room))

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json`` and ``--json``."""
        return {
            "memory": {**self.memory.as_dict(), "held": self.held, "room": self.target.room, "fits": self.fits},
            "disk": {**self.disk.as_dict(), "free": self.free_disk},
            "largest_batch": asdict(self.largest),
            "work": self.work.as_dict(),
        }


def look_ahead(config: RunConfig, material: Material, target: Target, precision: Precision | None = None) -> Outlook:
    """The outlook of a run on ``target``; ``precision``: what a run that goes on has already chosen.

    Raises: ConfigError ``adapter.no-such-layer``, ``train.fp16-on-cpu``; ModelError ``model.unknown-type``.
    """
    folder = local_folder(config.model.path, revision=config.model.revision)
    precision = precision or precision_of(config, target)
    rehearsal = Rehearsal(config, folder, precision, target)
    plan = make_plan(
        config,
        num_samples=len(material.train),
        num_val=len(material.val),
        can_pack=rehearsal.traits.can_pack,
        packs_fast=rehearsal.traits.packs_fast,
    )
    feed = Feed(material.train, plan, config.train, pad_id=material.encoder.pad_id)
    memory, largest = estimate_memory(rehearsal, feed, plan, material, folder, precision, target)
    return Outlook(
        plan=plan,
        precision=precision,
        target=target,
        memory=memory,
        largest=largest,
        disk=estimate_disk(config, memory.tensors),
        free_disk=_free_disk(config),
        work=count_work(feed, plan, material, rates_of(rehearsal.model, config)),
        parameters=sum(p.numel() for p in rehearsal.model.parameters()),
        learned=sum(p.numel() for p in rehearsal.parameters.values()),
    )


def precision_of(config: RunConfig, target: Target) -> Precision:
    """In which numbers a run computes on ``target``."""
    return choose_precision(
        config.train.precision if target.is_here else _on_new_card(config.train.precision),
        target.device,
        is_adapter=config.adapter.kind == "lora",
        num_parameters=num_parameters(config),
    )


def _on_new_card(asked: Any) -> Any:
    """Cards that are not here are taken to be ones with bf16, as all since 2020 are."""
    return "bf16" if asked == "auto" else asked


def num_parameters(config: RunConfig) -> int:
    """Numbers in a model folder's weights, read from the headers."""
    folder = local_folder(config.model.path, revision=config.model.revision)
    return sum(math.prod(spec.shape) for _, spec in tensor_places(folder).values())


def _free_disk(config: RunConfig) -> int:
    """Bytes free where the run will write."""
    wanted = Path(config.train.output_dir or "runs").expanduser().absolute()
    there = next(path for path in (wanted, *wanted.parents) if path.exists())
    return shutil.disk_usage(there).free
