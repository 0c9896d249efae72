"""The best step and the end of waiting, as a search over all that was seen would find them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.config.schema import TrainSection
from hantune.train.best import Best


def best(**settings: Any) -> Best:
    return Best(TrainSection(**settings))


LOSSES = st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf]), min_size=1, max_size=12)


@given(losses=LOSSES, cut=st.integers(0, 12), patience=st.integers(1, 4))
def test_the_best_is_the_first_lowest_and_a_state_carries_all(losses: list[float], cut: int, patience: int) -> None:
    whole, first = (best(early_stop_patience=patience) for _ in range(2))
    for step, loss in enumerate(losses):
        whole.see_loss(step, loss)
        if step == cut:
            state, first = first.state(), best(early_stop_patience=patience)
            first.restore(state)
        first.see_loss(step, loss)
    assert first.state() == whole.state()
    trained = [(loss, step) for step, loss in enumerate(losses) if step and math.isfinite(loss)]
    assert whole.step == (min(trained)[1] if trained else None)
    fallen = [
        math.isfinite(loss) and all(loss < earlier or not math.isfinite(earlier) for earlier in losses[:step])
        for step, loss in enumerate(losses)
    ]
    waited = len(losses) - 1 - max((step for step, fell in enumerate(fallen) if fell), default=-1)
    assert whole.waited == waited
    assert whole.is_over == (waited >= patience)


def test_seeing_says_whether_it_is_the_best_now() -> None:
    judge = best()
    seen = [judge.see_loss(step, loss) for step, loss in enumerate([5.0, 6.0, 4.0, 4.0, None, 3.0])]
    assert seen == [False, True, True, False, False, True]
    assert not judge.see_score(6, 100.0), "held-out loss decides"


def test_by_probe_the_highest_score_is_the_best_and_the_loss_still_ends_the_run() -> None:
    judge = best(best_by="probe", early_stop_patience=2)
    assert [judge.see_score(step, score) for step, score in enumerate([90.0, 10.0, 30.0, 30.0, None])] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert judge.step == 2
    assert not any(judge.see_loss(step, loss) for step, loss in [(0, 2.0), (1, 3.0), (2, 3.0)])
    assert judge.is_over


@pytest.mark.parametrize("patience", [None, 9])
def test_patience_that_is_not_asked_for_or_not_exhausted_ends_nothing(patience: int | None) -> None:
    judge = best(early_stop_patience=patience)
    for step in range(9):
        judge.see_loss(step, 1.0)
    assert not judge.is_over
