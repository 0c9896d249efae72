"""Micro-batches that fit into memory: the largest is tried first, and a step that does not fit is cut smaller.

A step is the same samples however it is cut, so cutting changes loss and gradients by rounding only. The cut that a
machine needs is found once and then kept, in the checkpoint too: a resumed run cuts as the uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch
from hantune.errors import TrainError
from hantune.log import duration, size
from hantune.models.call import bare_model
from hantune.models.memory import free_memory
from hantune.train.checkpoint import restore_rng, rng_tensors
from hantune.train.feed import Feed
from hantune.train.remedy import Remedy
from hantune.train.step import DoesNotFit, Stepper, StepResult
from hantune.train.trial import Cost, try_batches

NEARLY = 0.95
"""A micro-batch with this share of the largest one's positions tells as well whether the run fits."""
TIGHT_BYTES = 512 << 20
"""Less free memory than this makes a machine slow."""

Warn = Callable[..., None]
"""``warn(code, text, **values)``: say it and keep it in the event log."""


class Room:
    """``most``: positions that a micro-batch may compute, None = what the configuration allows."""

    def __init__(self, stepper: Stepper, feed: Feed, section: TrainSection, warn: Warn, remedy: Remedy) -> None:
        self.most: int | None = None
        self.seconds_per_position: float | None = None
        self._stepper = stepper
        self._feed = feed
        self._section = section
        self._warn = warn
        self._remedy = remedy

    def train(self, step: int) -> StepResult:
        """The update of step 0, 1, ...; repeated from the same random state, cut in half, while it does not fit.

        Raises: TrainError ``train.out-of-memory`` when a single sample does not fit.
        """
        rng = rng_tensors()
        while True:
            try:
                return self._stepper.train(self._feed.micro_batches(step, self.most), step=step)
            except DoesNotFit as error:
                batch = error.batch
            except TrainError as error:
                error.hint = self._remedy.anew(*self._smaller_states())
                raise
            restore_rng(rng)
            self._shrink(batch, step)

    def try_largest(self, step: int) -> None:
        """Find out before ``step`` whether the largest micro-batch fits, not after an hour (trap D4).

        Law: a run with it is bit-identical to one without, as long as everything fits. Raises: as ``train``.
        """
        while True:
            try:
                self._try(self._feed.largest(self.most), step)
            except DoesNotFit as error:
                batch = error.batch
            else:
                return
            self._shrink(batch, step)

    def describe(self, step: int) -> Callable[[], str]:
        """What makes a step long, for whoever waits for it."""
        tokens = self._feed.tokens_of_step(step)

        def details() -> str:
            device = self._stepper.accelerator.device
            where = f"CPU {torch.get_num_threads()} 个线程" if device.type == "cpu" else "显卡"
            parts = [f"这一步 {tokens} 个词元", where]
            expected = tokens * (self.seconds_per_position or 0.0)
            if expected >= 1:
                parts.append(f"估计要 {duration(expected)}")
            free = free_memory(device)
            if free is not None and free < TIGHT_BYTES:
                parts.append(f"内存只剩 {size(free)}, 可能因此变慢")
            return ", ".join(parts)

        return details

    def _try(self, batch: Batch, step: int) -> None:
        """Raises: DoesNotFit.

        A Linux host kills whoever takes too much, so there a part of the batch is tried first and counted up. What
        comes with one of the next two steps anyway is not tried here.
        """
        free = free_memory(self._stepper.accelerator.device)
        is_host = self._stepper.accelerator.device.type == "cpu"
        if is_host and len(batch.indices) > 1:
            part = self._feed.collate(batch.indices[: -(-len(batch.indices) // 4)])
            cost = self._cost(part)
            self._require(batch, cost, free, times=batch.tokens_BT.numel() / cost.positions)
        if not self._comes_soon(batch, step):
            self._require(batch, self._cost(batch), free)

    def _cost(self, batch: Batch) -> Cost:
        cost = try_batches(self._stepper.model, self._stepper.accelerator, self._section, [batch])[0]
        self.seconds_per_position = cost.seconds / cost.positions
        return cost

    def _require(self, batch: Batch, cost: Cost, free: int | None, times: float = 1.0) -> None:
        """Raises: DoesNotFit where ``times`` what was measured, and the optimiser, are more than was free."""
        if free is None or cost.grown_bytes is None:
            return
        gradients = self._stepper.gradient_bytes()  # as many, however large the batch is
        activations = max(0, cost.grown_bytes - gradients) * times
        if activations + gradients + self._stepper.bytes_to_come() > free:
            raise DoesNotFit(batch)

    def _comes_soon(self, batch: Batch, step: int) -> bool:
        longest, positions = batch.tokens_BT.shape[1], batch.tokens_BT.numel()
        soon = range(step, min(step + 2, self._feed.total_steps))
        coming = (other for near in soon for other in self._feed.micro_batches(near, self.most))
        return any(
            other.tokens_BT.numel() >= NEARLY * positions and other.tokens_BT.shape[1] >= NEARLY * longest
            for other in coming
        )

    def _shrink(self, batch: Batch, step: int) -> None:
        """Halve what a micro-batch may compute.

        Raises: TrainError ``train.out-of-memory`` when there is nothing left to halve.
        """
        self._stepper.release()
        if len(batch.indices) == 1:
            raise self._too_long(batch)
        positions = batch.tokens_BT.numel()
        self.most = positions // 2
        self._warn(
            "train.out-of-memory",
            f"第 {step + 1} 步: {positions} 个词元的小批放不进内存, 以后每个小批最多 {self.most} 个 (学到的一样, 稍慢)",
            step=step + 1,
            most_positions=self.most,
        )

    def _too_long(self, batch: Batch) -> TrainError:
        free = free_memory(self._stepper.accelerator.device)
        left = "" if free is None else f", 现在还剩 {size(free)}"
        return TrainError(
            "train.out-of-memory",
            f"内存不够: 一条 {batch.num_tokens} 个词元的样本单独成批也放不下{left}",
            place=self._feed.sources(batch.indices)[0] or None,
            hint=self._way_out(batch),
        )

    def _smaller_states(self) -> tuple[str, ...]:
        """What makes the optimiser's states smaller."""
        if self._section.optimizer.endswith("8bit"):
            return "adapter.kind=lora", "adapter.rank=4"
        return ("train.optimizer=adamw8bit",)

    def _way_out(self, batch: Batch) -> str:
        """The change that costs least and is not made yet."""
        if not getattr(bare_model(self._stepper.model), "is_gradient_checkpointing", False):
            return self._remedy.go_on("train.activation_checkpointing=true")
        return self._remedy.anew(f"data.max_tokens={max(8, batch.num_tokens // 2)}")
