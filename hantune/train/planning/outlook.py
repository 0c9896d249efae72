"""What a run will be, told before its weights are loaded: steps, memory, disk, work; and whether it fits."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hantune.config.schema import RunConfig
from hantune.data.batch import evaluation_batches
from hantune.models.headers import TensorSpec, tensor_places
from hantune.models.hub import local_folder
from hantune.train.feed import Feed
from hantune.train.floor import Work
from hantune.train.plan import Plan, make_plan
from hantune.train.planning.flops import MOST_STEPS, Volume, volume_of
from hantune.train.planning.memory import (
    Disk,
    Largest,
    Memory,
    Weights,
    estimate_disk,
    estimate_memory,
    process_bytes,
)
from hantune.train.planning.rehearsal import Footprint, Stage, find_traits, outlined, rehearse
from hantune.train.planning.target import Target
from hantune.train.precision import Precision, choose_precision, precision_of
from hantune.train.prepack import Prepack, choose_prepack, obstacle_to
from hantune.train.probe_plan import ProbePlan
from hantune.train.questions import plan_questions, questions_of
from hantune.train.recompute import Recompute, choose_recompute
from hantune.train.setup import Material

HEAVY = 0.05
"""An optimiser that takes more than this share of the peak is told apart from the steps before it is there."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """``parameters``: numbers in the model and its adapters, ``learned``: those trained; ``free_disk``: bytes there."""

    plan: Plan
    precision: Precision
    recompute: Recompute
    prepack: Prepack
    target: Target
    memory: Memory
    largest: Largest
    disk: Disk
    free_disk: int
    volume: Volume
    work: Work
    parameters: int
    learned: int

    @property
    def fits(self) -> bool:
        """Whether the memory is enough; yes where the system does not tell how much there is."""
        return self.target.room is None or self.memory.needed <= self.target.room

    @property
    def fits_disk(self) -> bool:
        return not self.target.is_here or self.disk.most <= self.free_disk

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json`` and ``--json``."""
        return {
            "memory": {**self.memory.as_dict(), "room": self.target.room, "fits": self.fits},
            "disk": {**self.disk.as_dict(), "free": self.free_disk, "fits": self.fits_disk},
            "largest_batch": asdict(self.largest),
            "volume": self.volume.as_dict(),
        }


def look_ahead(
    config: RunConfig,
    material: Material,
    target: Target,
    precision: Precision | None = None,
    recompute: Recompute | None = None,
    like: Outlook | None = None,
    prepack: Prepack | None = None,
) -> Outlook:
    """The outlook of a run on ``target``; ``precision``, ``recompute``, ``prepack``: what is already decided.

    ``like``: that of a run with the same data and questions, whose memory alone differs.

    Raises: ConfigError ``adapter.no-such-layer``, ``train.fp16-on-cpu``; ModelError ``model.unknown-type``.
    """
    precision = precision or precision_on(config, target)
    if recompute is not None:
        return _look(config, material, target, precision, recompute, prepack, like)
    asked = config.train.activation_checkpointing
    outlook = _look(config, material, target, precision, choose_recompute(asked), prepack, like)
    chosen = choose_recompute(asked, predicted=outlook.memory.needed, available=target.room)
    if chosen.is_on != outlook.recompute.is_on:
        return _look(config, material, target, precision, chosen, prepack, outlook)
    return replace(outlook, recompute=chosen)


def _look(
    config: RunConfig,
    material: Material,
    target: Target,
    precision: Precision,
    recompute: Recompute,
    prepack: Prepack | None,
    like: Outlook | None,
) -> Outlook:
    folder = local_folder(config.model.path, revision=config.model.revision)
    stored = stored_tensors(config)
    traits = find_traits(config, folder, precision)
    plan = make_plan(
        config,
        num_samples=len(material.train),
        num_val=len(material.val),
        can_pack=traits.can_pack,
        packs_fast=traits.packs_fast,
        is_wide=precision.is_wide,
    )
    probes = like.plan.probes if like else _probes(config, material, plan, folder, precision, target)
    plan = replace(plan, probes=probes)
    feed = Feed(material.train, plan, config.train, pad_id=material.encoder.pad_id)
    batch = feed.largest()
    held_out = next(evaluation_batches(material.val, pad_id=material.encoder.pad_id), None)
    stage = Stage(config=config, folder=folder, precision=precision, recompute=recompute, target=target)
    times = 2 if plan.samples_per_step > len(batch.indices) else 1
    found = rehearse(stage, traits, batch, held_out, times=times)
    volume = volume_of(feed, plan, material, found.work)
    footprint = found.footprint
    if plan.total_steps <= MOST_STEPS and footprint.optimizer > HEAVY * footprint.peak:
        # The largest batch that may come is tried when there is no optimiser yet (``train/room``); those that do come
        # are known.
        coming = feed.collate(volume.sizes[-1][1])
        later = rehearse(stage, traits, coming, None, times=times).footprint
        footprint = replace(footprint, peak=footprint.peak - footprint.optimizer)
        if later.peak >= footprint.peak:
            batch, footprint = coming, replace(later, evaluation=footprint.evaluation)
    prepack, memory = _prepacked(config, stage, prepack, footprint, found.prepacking, stored, plan, like)
    return Outlook(
        plan=plan,
        precision=precision,
        recompute=recompute,
        prepack=prepack,
        target=target,
        memory=memory,
        largest=Largest.of(batch, material.train.lengths),
        disk=estimate_disk(config, footprint),
        free_disk=_free_disk(config),
        volume=volume,
        work=found.work,
        parameters=_count(stored) + (found.learned if config.adapter.kind == "lora" else 0),
        learned=found.learned,
    )


def _prepacked(
    config: RunConfig,
    stage: Stage,
    decided: Prepack | None,
    footprint: Footprint,
    added: int,
    stored: Sequence[TensorSpec],
    plan: Plan,
    like: Outlook | None,
) -> tuple[Prepack, Memory]:
    """Whether the run prepacks its weights, and what it then takes."""
    estimate = functools.partial(
        estimate_memory,
        weights=Weights.of(stored, stage.precision, config.model.load, footprint.base),
        target=stage.target,
        saves_behind=_saves_behind(plan),
        process=like.memory.programs if like else process_bytes(),
    )
    memory = estimate(replace(footprint, prepacked=added))
    chosen = decided or choose_prepack(
        config.train.prepack,
        obstacle_to(config, stage.target.device, stage.precision.weights),
        stage.recompute,
        predicted=memory.needed,
        available=stage.target.room,
    )
    return chosen, memory if chosen.is_on else estimate(footprint)


def _saves_behind(plan: Plan) -> bool:
    """Whether there is a checkpoint before the last one, which the run waits for."""
    return min(plan.save_every, plan.eval_every) < plan.total_steps


def _probes(
    config: RunConfig, material: Material, plan: Plan, folder: Path, precision: Precision, target: Target
) -> ProbePlan:
    """When the fixed questions are asked; nothing is known of it for cards that are not here."""
    if not target.is_here:
        return ProbePlan()
    model = outlined(folder, precision.weights)
    return plan_questions(questions_of(config, material, model), config, material, model, plan, None, target.device)


def precision_on(config: RunConfig, target: Target) -> Precision:
    """In which numbers a run computes on ``target``; cards that are not here are taken to have bf16."""
    asked, is_adapter = config.train.precision, config.adapter.kind == "lora"
    if target.is_here:
        return choose_precision(asked, target.device, is_adapter=is_adapter, num_parameters=num_parameters(config))
    name, reason = ("bf16", "按有 bf16 矩阵单元的显卡算") if asked == "auto" else (asked, "配置里指定的")
    return precision_of(name, reason, is_adapter=is_adapter)


def num_parameters(config: RunConfig) -> int:
    """Numbers in a model folder's weights, read from the headers."""
    return _count(stored_tensors(config))


def stored_tensors(config: RunConfig) -> list[TensorSpec]:
    """Types and shapes of a model folder's weights, read from the headers."""
    folder = local_folder(config.model.path, revision=config.model.revision)
    return [spec for _, spec in tensor_places(folder).values()]


def _count(specs: Iterable[TensorSpec]) -> int:
    return sum(math.prod(spec.shape) for spec in specs)


def _free_disk(config: RunConfig) -> int:
    """Bytes free where the run will write."""
    wanted = Path(config.train.output_dir or "runs").expanduser().absolute()
    there = next(path for path in (wanted, *wanted.parents) if path.exists())
    return shutil.disk_usage(there).free
