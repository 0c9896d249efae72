"""What a run will do, before it does it: steps, evaluations, checkpoints. Written to ``plan.json``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from hantune.config.schema import RunConfig
from hantune.data.pack import Layout, num_steps

TIMES_PER_RUN = 5
"""How often a run evaluates and saves when the configuration does not say."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The counts of one run. A step is one update of the weights."""

    num_samples: int
    num_val: int
    samples_per_step: int
    steps_per_epoch: int
    total_steps: int
    eval_every: int
    save_every: int
    layout: Layout
    layout_reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    config: RunConfig, *, num_samples: int, num_val: int, can_pack: bool, packs_fast: bool = False
) -> Plan:
    """The plan for this configuration and this much data.

    ``can_pack``: the model takes position ids; ``packs_fast``: its packed rows go through ``models/attention``.
    """
    train = config.train
    samples_per_step = train.batch_size * train.accumulation_steps
    steps_per_epoch = num_steps(num_samples, samples_per_step)
    total = max(1, math.ceil(steps_per_epoch * train.epochs - 1e-9))
    if train.max_steps is not None:
        total = min(total, train.max_steps)
    often = max(1, math.ceil(total / TIMES_PER_RUN))
    layout, reason = _choose_layout(train.batching, can_pack, packs_fast)
    return Plan(
        num_samples=num_samples,
        num_val=num_val,
        samples_per_step=samples_per_step,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        eval_every=config.eval.every_steps or often,
        save_every=train.save_every_steps or often,
        layout=layout,
        layout_reason=reason,
    )


def _choose_layout(asked: str, can_pack: bool, packs_fast: bool) -> tuple[Layout, str]:
    if asked == "sorted":
        return "sorted", "配置里指定的"
    if packs_fast:
        return "packed", "首尾相接, 一个补齐的词元也没有; 互不相看 (已在这个模型上验证)"
    if asked == "packed" and not can_pack:
        return "sorted", "这个模型不收位置编号 (如 BLOOM), 首尾相接会互相看到; 改用 sorted"
    if asked == "packed":
        return "packed", "配置里指定的"
    return "sorted", "长度相近的放一批: 补齐最少, 每种模型都适用"
