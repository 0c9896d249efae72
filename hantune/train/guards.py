"""What stops a run before it wastes hours: the figures of its steps, watched."""

from __future__ import annotations

from hantune.errors import TrainError
from hantune.train.step import StepResult

MAX_BAD_STEPS = 3
"""Steps in a row whose loss or gradient is not a number before the run stops (trap D1)."""


class Guards:
    """The steps seen so far. ``bad_steps``: how many of the last ones in a row were not finite."""

    def __init__(self) -> None:
        self.bad_steps = 0

    def see(self, step: int, result: StepResult, *, last_good: int) -> None:
        """Look at what ``step`` (counted from 1) brought. ``last_good``: the step of the newest checkpoint.

        Raises: TrainError ``train.not-finite``.
        """
        self.bad_steps = 0 if result.is_finite else self.bad_steps + 1
        if self.bad_steps >= MAX_BAD_STEPS:
            raise TrainError(
                "train.not-finite",
                f"连续 {MAX_BAD_STEPS} 步的损失或梯度不是有限的数 (NaN 或 Inf), 已停下; 好检查点到第 {last_good} 步",
                place=f"第 {step} 步",
                hint="换一种精度 train.precision=float32, 或把 train.learning_rate 减半",
            )
