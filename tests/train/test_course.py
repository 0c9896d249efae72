"""Each sample once an epoch, wherever a run was cut and however many samples a step took afterwards."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.config.schema import RunConfig, TrainSection
from hantune.train.course import Course, Deal, dealt_from
from hantune.train.optim import learning_rate_at
from hantune.train.plan import Plan, continued, course_of, make_plan

SEED = 3


def lengths_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(4, 90, size=count)


def plan_of(count: int, samples_per_step: int, **train: object) -> tuple[RunConfig, Plan]:
    section = TrainSection.model_validate({"batch_size": samples_per_step, "seed": SEED, **train})
    config = RunConfig(train=section)
    return config, make_plan(config, num_samples=count, num_val=0, can_pack=True)


def state_of(plan: Plan, step: int) -> dict[str, object]:
    """What a checkpoint says of it, as it comes back from JSON."""
    deals = [list(deal) for deal in plan.deals]
    return {"step": step, "deals": deals, "run_samples": plan.run_samples, "by_length": plan.by_length}


def played(data: st.DataObject, count: int, epochs: float, limit: int | None) -> tuple[Plan, Course, list[list[int]]]:
    """A run that is stopped some times, and goes on with another number of samples a step: what each step trained."""
    sizes = st.integers(1, max(2, count + 1))
    config, plan = plan_of(count, data.draw(sizes), epochs=epochs, max_steps=limit)
    course = course_of(plan, lengths_of(count), SEED)
    steps: list[list[int]] = []
    for _ in range(data.draw(st.integers(0, 4))):
        cut = data.draw(st.integers(len(steps), course.total_steps))
        steps += [list(course.samples(step)) for step in range(len(steps), cut)]
        if cut == course.total_steps:
            break
        config, fresh = plan_of(count, data.draw(sizes), epochs=epochs, max_steps=limit)
        plan = continued(fresh, config, lengths_of(count), state_of(plan, cut))
        course = course_of(plan, lengths_of(count), SEED)
    steps += [list(course.samples(step)) for step in range(len(steps), course.total_steps)]
    return plan, course, steps


@given(st.data(), st.integers(1, 60), st.integers(1, 3))
def test_every_sample_is_trained_once_an_epoch(data: st.DataObject, count: int, epochs: int) -> None:
    plan, course, steps = played(data, count, epochs, None)
    assert plan.total_steps == course.total_steps == len(steps)
    in_order = [sample for step in steps for sample in step]
    assert len(in_order) == plan.run_samples == epochs * count
    for epoch in range(epochs):
        assert sorted(in_order[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert all(steps), "no step is empty"


@given(st.data(), st.integers(2, 60), st.floats(0.1, 2.5), st.integers(1, 40))
def test_a_run_of_part_epochs_ends_where_it_would_have(
    data: st.DataObject, count: int, epochs: float, limit: int
) -> None:
    plan, course, steps = played(data, count, epochs, limit)
    total = sum(len(step) for step in steps)
    if len(plan.deals) > 1:
        assert plan.run_samples <= total < plan.run_samples + plan.samples_per_step
    seen = Counter(sample for step in steps for sample in step)
    assert max(seen.values()) - min(seen[sample] for sample in range(count)) <= 1
    assert [course.samples_before(step) for step in range(len(steps) + 1)] == list(
        np.cumsum([0, *(len(step) for step in steps)])
    )


@given(st.data(), st.integers(1, 60))
def test_what_was_trained_is_not_dealt_anew(data: st.DataObject, count: int) -> None:
    """A second resume with the same setting goes on as the first, from whichever of its steps."""
    plan, course, steps = played(data, count, 2, None)
    step = data.draw(st.integers(0, course.total_steps))
    past = [deal for deal in plan.deals if deal.first_step < step]
    now = past[-1].samples_per_step if past else plan.deals[0].samples_per_step
    config, fresh = plan_of(count, now, epochs=2)
    again = course_of(continued(fresh, config, lengths_of(count), state_of(plan, step)), lengths_of(count), SEED)
    until = min(step, again.total_steps)
    assert [list(again.samples(i)) for i in range(until)] == steps[:until]
    if now == plan.samples_per_step:
        assert [list(again.samples(i)) for i in range(again.total_steps)] == steps


@given(st.data(), st.integers(1, 60), st.sampled_from(["cosine", "linear", "constant"]))
def test_the_learning_rate_keeps_its_place(data: st.DataObject, count: int, schedule: str) -> None:
    plan, course, steps = played(data, count, 2, None)
    start = plan.deals[-1].first_step
    section = TrainSection(schedule=schedule, warmup_share=0.0, learning_rate=1.0)  # type: ignore[arg-type]
    places = [course.place(step) for step in range(start, len(steps))]
    assert all(0 <= place < total for place, total in places)
    if places:
        assert places[0][0] / places[0][1] == pytest.approx(course.samples_before(start) / plan.run_samples)
    rates = [learning_rate_at(*place, section) for place in places]
    assert rates == sorted(rates, reverse=True)
    if len(plan.deals) == 1:
        assert places == [(step, len(steps)) for step in range(start, len(steps))]


@pytest.mark.parametrize(("run_samples", "total"), [(11, 4), (12, 4), (13, 5), (20, 8), (24, 10)])
def test_a_changed_run_ends_with_the_step_that_reaches_its_samples(run_samples: int, total: int) -> None:
    """Twice four samples, then twos; twenty make an epoch."""
    course = Course(lengths_of(20), [Deal(0, 4), Deal(2, 2)], seed=SEED, run_samples=run_samples, first_total=5)
    assert course.total_steps == total


def test_the_same_number_makes_no_deal() -> None:
    deals = (Deal(0, 8),)
    assert dealt_from(deals, 5, 8) == deals
    assert dealt_from(deals, 5, 4) == (Deal(0, 8), Deal(5, 4))
    assert dealt_from(deals, 0, 4) == (Deal(0, 4),)
    assert dealt_from((*deals, Deal(5, 4)), 5, 2) == (Deal(0, 8), Deal(5, 2))
    assert dealt_from((*deals, Deal(5, 4)), 5, 8) == deals
