"""Guards stop a run for what they name, and for nothing else."""

from __future__ import annotations

import math

import pytest

from hantune.errors import TrainError
from hantune.config.schema import TrainSection
from hantune.train.guards import Guards
from hantune.train.step import StepResult


def test_three_bad_steps_in_a_row_stop_the_run() -> None:
    guards = Guards({}, TrainSection())
    bad = StepResult(loss=math.nan, grad_norm=1.0, tokens=1, supervised=1)
    good = StepResult(loss=1.0, grad_norm=1.0, tokens=1, supervised=1)
    for step, result in enumerate((bad, bad, good, bad, bad), start=1):
        guards.see(step, result, last_good=0)
    with pytest.raises(TrainError) as caught:
        guards.see(6, bad, last_good=4)
    assert caught.value.code == "train.not-finite"
    assert "第 4 步" in str(caught.value)
