"""Whether the losses and gradient norms of a run say that it diverges. Pure arithmetic on what the steps brought.

The mean of the last steps is held against the best such mean so far. Single steps mean nothing: a batch of one hard
dialogue has several times the usual loss. So the limits stand far out: half as high again, one nat (up to three as long
as little has been seen), and six standard errors above it. A run that learns, however noisy, never gets
there; one that diverges stays there.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

WINDOW = 64
"""Steps that a mean is taken over."""
FEWEST = 8
"""Steps before there is a mean to speak of."""
LATEST = 8
"""Steps whose mean says early that a state may be bad."""
HIGHEST = 1e6
"""What a loss counts at most before there is anything to compare it with."""
SPIKE = 10.0
"""A gradient norm of so many times the usual one stands out."""


@dataclass(frozen=True)
class Level:
    """A window of ``steps``: mean and spread (standard deviation) of the loss, median of the gradient norm."""

    steps: int
    loss: float
    spread: float
    norm: float

    def limit(self, steps: int, *, factor: float = 1.5, more: float = 1.0) -> float:
        """The mean loss over this many steps above which a run is not what it was."""
        unsure = 2 * (1 - self.steps / WINDOW)
        return factor * self.loss + more + unsure + 6 * self.spread / math.sqrt(steps)

    @property
    def ceiling(self) -> float:
        """What one step counts at most, so that a single broken sample moves no mean far."""
        return 3 * self.loss + 5


class Watchdog:
    """The last steps of a run, and ``best``: the window that sets the lowest limit."""

    def __init__(self) -> None:
        self.best: Level | None = None
        self.now: Level | None = None
        """The last window; None in the first steps."""
        self._losses: list[float] = []
        self._norms: list[float] = []

    def expect(self, loss: float) -> None:
        """Take this, known before the first update, for a beginning, with a wide spread: its single losses are not."""
        self.best = Level(steps=FEWEST, loss=loss, spread=loss, norm=HIGHEST)

    def add(self, loss: float, norm: float) -> None:
        """One more step, both figures finite."""
        self._losses = [*self._losses, loss][-WINDOW:]
        self._norms = [*self._norms, norm][-WINDOW:]
        if len(self._losses) < FEWEST:
            return
        self.now = self._level()
        if self.best is None or self.now.limit(WINDOW) < self.best.limit(WINDOW):
            self.best = self.now

    def _level(self) -> Level:
        losses = self._counted()
        mean = statistics.fmean(losses)
        spread = math.sqrt(statistics.fmean([(loss - mean) ** 2 for loss in losses]))
        return Level(steps=len(losses), loss=mean, spread=spread, norm=statistics.median(self._norms))

    def _counted(self) -> list[float]:
        """The losses of the last steps, each at most the ceiling."""
        ceiling = HIGHEST if self.best is None else self.best.ceiling
        return [min(loss, ceiling) for loss in self._losses]

    @property
    def latest(self) -> float:
        """The loss of the very last steps (median)."""
        return statistics.median(self._losses[-LATEST:])

    @property
    def has_diverged(self) -> bool:
        """Whether the loss is far above the best it was, or clearly above it with gradients that exploded."""
        now, best = self.now, self.best
        if now is None or best is None:
            return False
        is_clear = now.loss > best.limit(now.steps, factor=1.2, more=0.5)
        return now.loss > best.limit(now.steps) or (is_clear and now.norm > SPIKE * best.norm)

    @property
    def is_suspect(self) -> bool:
        """Whether the very last steps look as if the run began to diverge: no state to keep as a good one."""
        if self.best is None:
            return False
        losses = self._counted()
        return max(losses[-3:]) > self.best.limit(1) or statistics.fmean(losses[-LATEST:]) > self.best.limit(LATEST)

    def is_spike(self, norm: float) -> bool:
        """Whether a gradient norm stands out among those of the last steps."""
        return len(self._norms) >= WINDOW // 2 and norm > SPIKE * statistics.median(self._norms)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        best = None if self.best is None else asdict(self.best)
        return {"best": best, "losses": self._losses, "norms": self._norms}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.best = None if state["best"] is None else Level(**state["best"])
        self._losses, self._norms = list(state["losses"]), list(state["norms"])
