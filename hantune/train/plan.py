"""What a run will do, before it does it: steps, evaluations, checkpoints. Written to ``plan.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from hantune.config.schema import RunConfig
from hantune.data.pack import Layout, num_steps
from hantune.train.course import Course, Deal, dealt_from
from hantune.train.probe_plan import ProbePlan

TIMES_PER_RUN = 5
"""How often a run evaluates and saves when the configuration does not say."""

BATCH_TOKENS, WIDE_BATCH_TOKENS = 2048, 768
"""Tokens of a micro-batch when the configuration does not say, and the same where all is float32: there an activation
takes twice the bytes, and with 768 rows a step on a CPU is nearly as fast as with 1,024 (docs/decisions.md)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The counts of one run. A step is one update of the weights.

    ``run_samples``: samples of the whole run, all epochs together. ``deals``: see ``course``. ``batch_tokens``: most
    tokens of a micro-batch, None without a limit.
    """

    num_samples: int
    num_val: int
    samples_per_step: int
    batch_tokens: int | None
    steps_per_epoch: int
    total_steps: int
    eval_every: int
    save_every: int
    layout: Layout
    layout_reason: str
    run_samples: int
    deals: tuple[Deal, ...]
    by_length: bool
    probes: ProbePlan = ProbePlan()

    def still_to_come(self, step: int) -> dict[str, int]:
        """How many evaluations, rounds of questions and saves come after ``step``."""
        return {
            "eval": self._times_left(step, self.eval_every),
            "probe": sum(asked > step for asked in self.probes.steps),
            "save": self._times_left(step, self.save_every),
        }

    def _times_left(self, step: int, every: int) -> int:
        """How often something that is done every so many steps and at the end is still to be done."""
        return math.ceil(self.total_steps / every) - step // every if step < self.total_steps else 0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "deals": [list(deal) for deal in self.deals], "probes": self.probes.as_dict()}


def make_plan(
    config: RunConfig, *, num_samples: int, num_val: int, can_pack: bool, packs_fast: bool = False,
    is_wide: bool = False,
) -> Plan:  # fmt: skip
    """The plan for this configuration and this much data.

    ``can_pack``: the model takes position ids; ``packs_fast``: its packed rows go through ``models/attention``;
    ``is_wide``: all is computed in float32.
    """
    train = config.train
    samples_per_step = train.batch_size * train.accumulation_steps
    steps_per_epoch = num_steps(num_samples, samples_per_step)
    total = max(1, math.ceil(steps_per_epoch * train.epochs - 1e-9))
    if train.max_steps is not None:
        total = min(total, train.max_steps)
    epochs, steps = divmod(total, steps_per_epoch)
    layout, reason = _choose_layout(train.batching, can_pack, packs_fast)
    return Plan(
        num_samples=num_samples,
        num_val=num_val,
        samples_per_step=samples_per_step,
        batch_tokens=_batch_tokens(train.batch_tokens, is_wide),
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        eval_every=config.eval.every_steps or _often(total),
        save_every=train.save_every_steps or _often(total),
        layout=layout,
        layout_reason=reason,
        run_samples=epochs * num_samples + min(steps * samples_per_step, num_samples),
        deals=(Deal(0, samples_per_step),),
        by_length=layout == "sorted",
    )


def continued(plan: Plan, config: RunConfig, lengths: np.ndarray, state: Mapping[str, Any] | None) -> Plan:
    """The plan of a run that goes on from a checkpoint with this ``state``. ``plan``: as if the run began now."""
    if state is None:
        return plan
    deals = dealt_from((Deal(*deal) for deal in state["deals"]), state["step"], plan.samples_per_step)
    plan = replace(plan, deals=deals, run_samples=state["run_samples"], by_length=state["by_length"])
    total = course_of(plan, lengths, config.train.seed).total_steps
    return replace(
        plan,
        total_steps=total,
        eval_every=config.eval.every_steps or _often(total),
        save_every=config.train.save_every_steps or _often(total),
        probes=plan.probes.over(total),
    )


def course_of(plan: Plan, lengths: np.ndarray, seed: int) -> Course:
    """What each step of the plan trains."""
    return Course(
        lengths,
        plan.deals,
        seed=seed,
        run_samples=plan.run_samples,
        first_total=plan.total_steps,
        by_length=plan.by_length,
    )


def _often(total_steps: int) -> int:
    return max(1, math.ceil(total_steps / TIMES_PER_RUN))


def _batch_tokens(asked: int | Literal["auto"] | None, is_wide: bool) -> int | None:
    if asked == "auto":
        return WIDE_BATCH_TOKENS if is_wide else BATCH_TOKENS
    return asked


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
