"""What a run will do is counted before it does it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.config.schema import EvalSection, RunConfig, TrainSection
from hantune.train.plan import TIMES_PER_RUN, Plan, make_plan
from hantune.train.probe_plan import ProbePlan


def plan_of(
    num_samples: int = 100, can_pack: bool = True, packs_fast: bool = False, every: int | None = None, **train: object
) -> Plan:
    config = RunConfig(train=TrainSection.model_validate(train), eval=EvalSection(every_steps=every))
    return make_plan(config, num_samples=num_samples, num_val=7, can_pack=can_pack, packs_fast=packs_fast)


@given(
    st.integers(1, 500), st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 4), st.none() | st.integers(1, 50)
)
def test_counts_fit_together(samples: int, batch: int, accumulation: int, epochs: float, limit: int | None) -> None:
    plan = plan_of(
        samples, batch_size=batch, accumulation_steps=accumulation, epochs=epochs, max_steps=limit
    )
    assert plan.samples_per_step == batch * accumulation
    assert (plan.steps_per_epoch - 1) * plan.samples_per_step < samples <= plan.steps_per_epoch * plan.samples_per_step
    assert 1 <= plan.total_steps <= (limit or math.inf)
    assert plan.total_steps <= max(1, math.ceil(plan.steps_per_epoch * epochs))
    assert math.ceil(plan.total_steps / plan.eval_every) <= TIMES_PER_RUN
    assert plan.eval_every == plan.save_every


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 70))
def test_what_is_still_to_come_is_counted(total: int, evals: int, saves: int) -> None:
    plan = plan_of(total, batch_size=1, epochs=1, every=evals, save_every_steps=saves)
    plan = replace(plan, probes=ProbePlan(steps=(0, total // 2, total)))
    for step in range(total + 1):
        rest = range(step + 1, total + 1)
        assert plan.still_to_come(step) == {
            "eval": sum(later % evals == 0 or later == total for later in rest),
            "probe": len({total // 2, total} & set(rest)),
            "save": sum(later % saves == 0 or later == total for later in rest),
        }


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"epochs": 3}, 39), ({"epochs": 0.5}, 7), ({"epochs": 3, "max_steps": 5}, 5), ({"max_steps": 10_000}, 39)],
)
def test_epochs_may_be_a_fraction_and_max_steps_is_a_limit(settings: dict[str, float], steps: int) -> None:
    assert plan_of(**settings).total_steps == steps


def test_what_the_configuration_says_is_taken() -> None:
    plan = plan_of(every=4, save_every_steps=9)
    assert (plan.eval_every, plan.save_every, plan.num_val) == (4, 9, 7)


@pytest.mark.parametrize(
    ("asked", "can_pack", "packs_fast", "layout", "reason"),
    [
        ("packed", True, False, "packed", "指定"),
        ("packed", True, True, "packed", "验证"),
        ("packed", False, False, "sorted", "BLOOM"),
        ("sorted", True, False, "sorted", "指定"),
        ("auto", True, False, "sorted", "补齐"),
        ("auto", True, True, "packed", "验证"),
    ],
)
def test_the_layout_comes_with_its_reason(
    asked: str, can_pack: bool, packs_fast: bool, layout: str, reason: str
) -> None:
    plan = plan_of(can_pack=can_pack, packs_fast=packs_fast, batching=asked)
    assert plan.layout == layout
    assert reason in plan.layout_reason
    assert plan.as_dict()["layout_reason"] == plan.layout_reason


@pytest.mark.parametrize(("asked", "narrow", "wide"), [("auto", 2048, 768), (300, 300, 300), (None, None, None)])
def test_the_budget_of_a_micro_batch_is_halved_only_where_it_is_ours_to_choose(
    asked: object, narrow: int | None, wide: int | None
) -> None:
    config = RunConfig(train=TrainSection.model_validate({"batch_tokens": asked}))
    for is_wide, wanted in ((False, narrow), (True, wide)):
        assert make_plan(config, num_samples=9, num_val=0, can_pack=True, is_wide=is_wide).batch_tokens == wanted
