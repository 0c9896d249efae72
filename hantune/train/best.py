"""Which step is the best so far, and whether waiting for a better one has lasted long enough.

Both are pure functions of what the evaluations found, and their state is a few numbers in every checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

from hantune.config.schema import TrainSection


class Best:
    """``step`` is the best trained step (None before the first evaluation), by held-out loss or by probe score.

    ``waited``: evaluations in a row that did not lower the held-out loss; the loss before training counts as well.
    """

    def __init__(self, section: TrainSection) -> None:
        self.step: int | None = None
        self.waited = 0
        self._by = section.best_by
        self._patience = section.early_stop_patience
        self._value: float | None = None
        self._lowest: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the run should end: no lower held-out loss for ``train.early_stop_patience`` evaluations."""
        return self._patience is not None and self.waited >= self._patience

    def see_loss(self, step: int, loss: float | None) -> bool:
        """Take in a held-out loss; whether ``step`` is the best now. What is not finite is never better."""
        if loss is None:
            return False
        is_lower = math.isfinite(loss) and (self._lowest is None or loss < self._lowest)
        self.waited = 0 if is_lower else self.waited + 1
        if is_lower:
            self._lowest = loss
        return self._by == "held_out" and self._take(step, -loss)

    def see_score(self, step: int, score: float | None) -> bool:
        """Take in a probe score; whether ``step`` is the best now."""
        return self._by == "probe" and score is not None and self._take(step, score)

    def _take(self, step: int, value: float) -> bool:
        """Higher is better; the state before training is no result, and of equals the earlier stays."""
        if step == 0 or not math.isfinite(value) or (self._value is not None and value <= self._value):
            return False
        self.step, self._value = step, value
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"step": self.step, "value": self._value, "lowest": self._lowest, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.step, self._value = state["step"], state["value"]
        self._lowest, self.waited = state["lowest"], state["waited"]
