"""Every sample once an epoch, whatever the steps are cut into."""

from __future__ import annotations

import numpy as np
import pytest

from hantune.config.schema import RunConfig, TrainSection
from hantune.train.feed import Feed
from hantune.train.plan import make_plan
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
