"""The order in which a run goes through its samples, also when a resumed run changed how many make a step.

    deals (from which step on, how many samples a step)
    epoch ─ first deal ─> steps ─ cut where a later deal begins ─> the samples left, dealt anew ─> steps

Everything is a pure function of the lengths, the seed and the deals, so a checkpoint keeps the deals and the number of
the step, and no order. Each sample stands in exactly one step of an epoch, whatever was changed when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from hantune.data.pack import epoch_steps, num_steps


class Deal(NamedTuple):
    """From step ``first_step`` (0, 1, ...) on, ``samples_per_step`` samples make a step."""

    first_step: int
    samples_per_step: int


def dealt_from(deals: Iterable[Deal], step: int, samples_per_step: int) -> tuple[Deal, ...]:
    """The deals of a run that goes on at ``step`` with so many samples a step; what was never trained is forgotten."""
    past = [deal for deal in deals if deal.first_step < step]
    is_same = bool(past) and past[-1].samples_per_step == samples_per_step
    return (*past, *([] if is_same else [Deal(step, samples_per_step)]))


class _Epoch(NamedTuple):
    """``cuts``: how many of its steps were done when a deal began, and its samples per step."""

    number: int
    first_step: int
    num_steps: int
    cuts: tuple[tuple[int, int], ...]


class Course:
    """Which samples each step trains. ``total_steps``: until ``run_samples`` are trained (the last step may be more).

    A run that was never changed has ``first_total`` steps.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        deals: Sequence[Deal],
        *,
        seed: int,
        run_samples: int,
        first_total: int,
        by_length: bool = True,
    ) -> None:
        self._lengths = lengths
        self._seed = seed
        self._by_length = by_length
        self._deals = tuple(deals)
        self._run_samples = run_samples
        self._dealt: tuple[_Epoch, list[np.ndarray], np.ndarray] | None = None
        self._changed = self._lay_out() if len(self._deals) > 1 else []
        last = self._changed[-1] if self._changed else None
        self.total_steps = last.first_step + last.num_steps if last else first_total

    def samples(self, step: int) -> np.ndarray:
        """The sample numbers that ``step`` trains."""
        epoch = self._epoch(step)
        return self._steps(epoch)[0][step - epoch.first_step]

    def samples_before(self, step: int) -> int:
        """How many samples are trained when ``step`` begins, all epochs together."""
        if step == 0:
            return 0
        epoch = self._epoch(step - 1)
        _, ends = self._steps(epoch)
        return epoch.number * len(self._lengths) + int(ends[step - epoch.first_step - 1])

    def epochs_before(self, step: int) -> float:
        """The same in epochs."""
        return self.samples_before(step) / len(self._lengths)

    def place(self, step: int) -> tuple[float, float]:
        """Where ``step`` stands in the schedule of the learning rate: (step, total), both in steps of the last deal.

        The share of the run that lies behind a change is that of its samples; without a change these are plain counts.
        """
        start = self._deals[-1].first_step
        left = self.total_steps - start
        total = left / (1 - self.samples_before(start) / self._run_samples) if start else left
        return total - (self.total_steps - step), total

    def _epoch(self, step: int) -> _Epoch:
        if self._changed:
            return next(epoch for epoch in reversed(self._changed) if epoch.first_step <= step)
        samples_per_step = self._deals[0].samples_per_step
        count = num_steps(len(self._lengths), samples_per_step)
        number = step // count
        return _Epoch(number, number * count, count, ((0, samples_per_step),))

    def _steps(self, epoch: _Epoch) -> tuple[list[np.ndarray], np.ndarray]:
        """All steps of an epoch, and how many of its samples are trained after each; the last epoch stays."""
        if self._dealt is None or self._dealt[0] != epoch:
            steps = self._deal(epoch.number, epoch.cuts)
            self._dealt = (epoch, steps, _ends(steps))
        return self._dealt[1:]

    def _deal(self, number: int, cuts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        (_, samples_per_step), *later = cuts
        deal = partial(epoch_steps, seed=self._seed, epoch=number, by_length=self._by_length)
        steps = deal(self._lengths, samples_per_step)
        for done, samples_per_step in later:
            left = np.sort(np.concatenate(steps[done:]))
            again = deal(self._lengths[left], samples_per_step)
            steps = steps[:done] + [left[step] for step in again]
        return steps

    def _lay_out(self) -> list[_Epoch]:
        """The epochs of a run that was changed."""
        epochs: list[_Epoch] = []
        first, trained = 0, 0
        while trained < self._run_samples:
            before = [deal for deal in self._deals if deal.first_step <= first]
            cuts = [(0, before[-1].samples_per_step)]
            count = num_steps(len(self._lengths), cuts[0][1])
            for deal in self._deals[len(before) :]:
                if deal.first_step < first + count:
                    cuts.append((deal.first_step - first, deal.samples_per_step))
                    count = len(self._deal(len(epochs), cuts))
            wanted = self._run_samples - trained
            if wanted < len(self._lengths):
                count = int(np.searchsorted(_ends(self._deal(len(epochs), cuts)), wanted)) + 1
            epochs.append(_Epoch(len(epochs), first, count, tuple(cuts)))
            first += count
            trained += len(self._lengths)
        return epochs


def _ends(steps: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([len(samples) for samples in steps])
