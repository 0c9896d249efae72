"""Every sample once an epoch, whatever the steps are cut into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.config.schema import RunConfig, TrainSection
from hantune.train.feed import Feed
from hantune.train.plan import Plan, continued, make_plan
from tests.train.test_loop import Chats


@pytest.mark.parametrize("layout", ["sorted", "packed"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_sample_is_fed_once_an_epoch(layout: str, batch_size: int) -> None:
    samples = Chats(22)
    section = TrainSection(batch_size=batch_size, accumulation_steps=2, batching=layout, batch_tokens=64)
    config = RunConfig(train=section)
    plan = make_plan(config, num_samples=len(samples), num_val=0, can_pack=True)
    feed = Feed(samples, plan, config.train, pad_id=3)
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        fed = [index for step in steps for batch in feed.micro_batches(step) for index in batch.indices]
        assert sorted(fed) == list(range(22))
        squares = [int((samples.lengths[feed.samples_of_step(step)] ** 2).sum()) for step in steps]
        assert squares == [feed.squares_of_step(step) for step in steps]
        drawn = np.concatenate([feed.samples_of_step(step) for step in steps])
        assert sorted(drawn) == sorted(fed)


@pytest.mark.parametrize("layout", ["sorted", "packed"])
def test_what_just_fits_is_not_halved_and_the_largest_half_is_known(layout: str) -> None:
    samples = Chats(3)
    samples.examples = samples.examples[:1] * 3
    length = len(samples.examples[0].ids)
    samples.lengths = np.array([length] * 3)
    config = RunConfig(train=TrainSection(batch_size=3, batching=layout))
    plan = make_plan(config, num_samples=3, num_val=0, can_pack=True)
    feed = Feed(samples, plan, config.train, pad_id=3)
    for most, sizes in ((None, [3]), (3 * length, [3]), (3 * length - 1, [1, 2]), (2 * length - 1, [1, 1, 1])):
        assert [len(batch.indices) for batch in feed.micro_batches(0, most)] == sizes
        assert feed.largest(most).tokens_BT.numel() == max(sizes) * length


CUTS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "accumulation_steps": st.integers(1, 4),
        "batch_tokens": st.none() | st.integers(8, 200),
        "batching": st.sampled_from(["sorted", "packed"]),
    }
)
"""What a resumed run may choose anew."""


@given(st.lists(CUTS, min_size=1, max_size=4), st.data())
def test_a_run_that_is_cut_and_cut_otherwise_is_fed_every_sample_once_an_epoch(
    ways: list[dict[str, Any]], data: st.DataObject
) -> None:
    samples, epochs, fed = Chats(17), 2, []
    step, state = 0, None
    for number, way in enumerate(ways):
        config = RunConfig(train=TrainSection(epochs=epochs, **way))
        plan = make_plan(config, num_samples=len(samples), num_val=0, can_pack=True)
        plan = continued(plan, config, samples.lengths, state)
        feed = Feed(samples, plan, config.train, pad_id=3)
        is_last = number == len(ways) - 1
        until = plan.total_steps if is_last else data.draw(st.integers(step, plan.total_steps))
        for done in range(step, until):
            fed += [index for batch in feed.micro_batches(done) for index in batch.indices]
        step, state = until, state_at(plan, until)
    for epoch in range(epochs):
        assert sorted(fed[epoch * 17 : (epoch + 1) * 17]) == list(range(17))
    assert len(fed) == epochs * 17


def state_at(plan: Plan, step: int) -> dict[str, Any]:
    """What a checkpoint keeps of the plan."""
    kept = plan.as_dict()
    return {"step": step, **{name: kept[name] for name in ("deals", "run_samples", "by_length")}}
