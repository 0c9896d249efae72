"""What each step trains: its samples, cut into micro-batches and collated. A pure function of the step's number."""

from __future__ import annotations

import numpy as np

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch, Samples, collate_samples
from hantune.data.pack import micro_batches
from hantune.train.plan import Plan, course_of


class Feed:
    """The micro-batches of every step of a run."""

    def __init__(self, samples: Samples, plan: Plan, section: TrainSection, *, pad_id: int) -> None:
        self._samples = samples
        self._lengths = samples.lengths
        self._plan = plan
        self._section = section
        self._pad_id = pad_id
        self.course = course_of(plan, samples.lengths, section.seed)

    def samples_of_step(self, step: int) -> np.ndarray:
        """The sample numbers that ``step`` trains."""
        return self.course.samples(step)

    def micro_batches(self, step: int) -> list[Batch]:
        """The step's samples, cut and collated."""
        cuts = micro_batches(
            self.samples_of_step(step),
            self._lengths,
            batch_size=self._section.batch_size,
            batch_tokens=self._section.batch_tokens,
            layout=self._plan.layout,
        )
        return [collate_samples(self._samples, cut, layout=self._plan.layout, pad_id=self._pad_id) for cut in cuts]
