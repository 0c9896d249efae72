"""One update of the weights: micro-batches -> loss -> gradients -> optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch
from hantune.models.loss import supervised_nats
from hantune.train.optim import make_optimizer, trained_parameters

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """``loss``: mean nats over the supervised tokens of the whole step; ``tokens``: real tokens."""

    loss: float
    grad_norm: float
    tokens: int
    supervised: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def add_gradients(model: nn.Module, accelerator: Accelerator, batch: Batch, supervised: int) -> Tensor:
    """Add a micro-batch's part of the gradients of a step with ``supervised`` learned tokens; returns its nats."""
    with accelerator.autocast():
        nats, _ = supervised_nats(model, batch.to(accelerator.device))
    accelerator.backward(nats / supervised)
    return nats.detach()


class Stepper:
    """The model being trained and its optimiser."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, section: TrainSection) -> None:
        self.model = model
        self.parameters = trained_parameters(model)
        self.optimizer = accelerator.prepare(make_optimizer(self.parameters.values(), section))
        self._accelerator = accelerator
        self._section = section

    def set_learning_rate(self, rate: float) -> None:
        """Use this rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def train(self, batches: Sequence[Batch]) -> StepResult:
        """One update. The loss is a mean over the supervised tokens of all micro-batches together (trap D2).

        Gradients that are not finite are dropped (fp16's scaler judges that by itself).
        """
        result = self._add_gradients(batches)
        if result.is_finite or self._accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return result

    def _add_gradients(self, batches: Sequence[Batch]) -> StepResult:
        """The gradients of the step, clipped, in the parameters."""
        supervised = sum(batch.num_supervised for batch in batches)
        nats = torch.zeros((), device=self._accelerator.device)
        for batch in batches:
            nats += add_gradients(self.model, self._accelerator, batch, supervised)
        limit = self._section.max_grad_norm
        norm = self._accelerator.clip_grad_norm_(self.parameters.values(), math.inf if limit is None else limit)
        return StepResult(
            loss=float(nats) / supervised,
            grad_norm=float(norm),
            tokens=sum(batch.num_tokens for batch in batches),
            supervised=supervised,
        )
