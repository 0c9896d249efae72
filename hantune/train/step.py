"""One update of the weights: micro-batches -> loss -> gradients -> optimiser."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch
from hantune.errors import TrainError, is_out_of_memory
from hantune.models.loss import supervised_nats
from hantune.train.ema import Ema
from hantune.train.neftune import noisy_embeddings
from hantune.train.optim import make_optimizer, state_bytes, trained_parameters

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """``loss``: mean nats over the supervised tokens of the whole step; ``tokens``: real tokens.

    ``scale``: fp16's loss scale during the step, None without one.
    """

    loss: float
    grad_norm: float
    tokens: int
    supervised: int
    scale: float | None = None

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class DoesNotFit(Exception):
    """A micro-batch took more memory than there is. What its pass held is free again; earlier gradients still stand."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(f"{len(batch.indices)} samples, {batch.tokens_BT.numel()} positions")
        self.batch = batch


def add_gradients(
    model: nn.Module, accelerator: Accelerator, section: TrainSection, batch: Batch, *, supervised: int, step: int = 0
) -> Tensor:
    """Add a micro-batch's part of the gradients of a step with ``supervised`` learned tokens; returns its nats.

    Raises: DoesNotFit.
    """
    noise = noisy_embeddings(model, batch, alpha=section.neftune_alpha, seed=section.seed, step=step)
    try:
        with accelerator.autocast(), noise:
            nats, _ = supervised_nats(model, batch.to(accelerator.device), smoothing=section.label_smoothing)
        accelerator.backward(nats / supervised)
        return nats.detach()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        nats = None  # and with it what it hangs on; the error and its frames go at the end of this block
    raise DoesNotFit(batch)


class Stepper:
    """The model being trained and its optimiser."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, section: TrainSection) -> None:
        self.model = model
        self.accelerator = accelerator
        self.parameters = trained_parameters(model)
        self.optimizer = accelerator.prepare(make_optimizer(self.parameters, section))
        self.ema = Ema(self.optimizer, self.parameters, section.ema_decay)
        self._section = section

    def set_learning_rate(self, rate: float) -> None:
        """Use this rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def train(self, batches: Sequence[Batch], *, step: int = 0) -> StepResult:
        """One update. The loss is a mean over the supervised tokens of all micro-batches together (trap D2).

        Gradients that are not finite are dropped (fp16's scaler judges that by itself). ``step``: its number from 0.
        Raises: DoesNotFit, with nothing changed; TrainError ``train.out-of-memory``.
        """
        try:
            result = self._add_gradients(batches, step)
            if self.accelerator.scaler is not None:
                result = replace(result, scale=self.accelerator.scaler.get_scale())
                self._update()
            elif result.is_finite:
                self._update()
        finally:
            self.optimizer.zero_grad()
        self.ema.update(step)
        return result

    def _add_gradients(self, batches: Sequence[Batch], step: int) -> StepResult:
        """The gradients of the step, clipped, in the parameters."""
        supervised = sum(batch.num_supervised for batch in batches)
        section = self._section
        nats = torch.zeros((), device=self.accelerator.device)
        for batch in batches:
            nats += add_gradients(self.model, self.accelerator, section, batch, supervised=supervised, step=step)
        limit = section.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), math.inf if limit is None else limit)
        return StepResult(
            loss=float(nats) / supervised,
            grad_norm=float(norm),
            tokens=sum(batch.num_tokens for batch in batches),
            supervised=supervised,
        )

    def _update(self) -> None:
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainError("train.out-of-memory", "更新参数时内存不够: 优化器的状态放不下") from error

    def bytes_to_come(self) -> int:
        """What the first update will take for the optimiser's moments and averages; 0 once they are there."""
        if self.optimizer.state:
            return 0
        averages = self.gradient_bytes() if self._section.ema_decay else 0
        return averages + state_bytes(self.parameters.values(), self._section)

    def gradient_bytes(self) -> int:
        """What the gradients of all that is learned take."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters.values())

    def release(self) -> None:
        """Give back what a pass that failed has left behind."""
        gc.collect()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
