"""What each step trains: its samples, cut into micro-batches and collated. A pure function of the step's number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch, Samples, collate_samples
from hantune.data.pack import largest_batch, micro_batches
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

    @property
    def total_steps(self) -> int:
        return self._plan.total_steps

    def samples_of_step(self, step: int) -> np.ndarray:
        """The sample numbers that ``step`` trains."""
        return self.course.samples(step)

    def tokens_of_step(self, step: int) -> int:
        """Real tokens of the step's samples."""
        return int(self._lengths[self.samples_of_step(step)].sum())

    def squares_of_step(self, step: int) -> int:
        """The lengths of the step's samples, squared and summed."""
        lengths = self._lengths[self.samples_of_step(step)]
        return int((lengths * lengths).sum())

    def micro_batches(self, step: int, most: int | None = None) -> list[Batch]:
        """The step's samples, cut and collated; what computes more than ``most`` positions is halved by samples."""
        return [part for cut in self.cuts(step) for part in self._halved(cut, most)]

    def cuts(self, step: int) -> list[list[int]]:
        """The numbers of the samples in each micro-batch of the step."""
        return micro_batches(
            self.samples_of_step(step),
            self._lengths,
            batch_size=self._section.batch_size,
            batch_tokens=self._plan.batch_tokens,
            layout=self._plan.layout,
        )

    def largest(self, most: int | None = None) -> Batch:
        """The fullest micro-batch that the run can come to, made of its longest samples."""
        cut = largest_batch(
            self._lengths,
            batch_size=self._section.batch_size,
            batch_tokens=self._plan.batch_tokens,
            layout=self._plan.layout,
        )
        return max(self._halved(cut, most), key=lambda batch: batch.tokens_BT.numel())

    def collate(self, samples: Sequence[int]) -> Batch:
        """These samples as one micro-batch."""
        return collate_samples(self._samples, samples, layout=self._plan.layout, pad_id=self._pad_id)

    def sources(self, samples: Iterable[int]) -> list[str]:
        """Where samples come from: ``file:line``."""
        return [self._samples[int(sample)].source for sample in samples]

    def _halved(self, samples: Sequence[int], most: int | None) -> Iterator[Batch]:
        batch = self.collate(samples)
        if most is None or len(samples) == 1 or batch.tokens_BT.numel() <= most:
            yield batch
            return
        middle = len(samples) // 2
        yield from self._halved(samples[:middle], most)
        yield from self._halved(samples[middle:], most)
