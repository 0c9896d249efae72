"""The exponential moving average of what is trained: steadier weights for evaluation and for the result.

The averages are one more slot of the optimiser's state, as in torch's own ``ASGD``: a checkpoint holds them with the
moments, and restoring the optimiser restores them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

SLOT = "average"


class Ema:
    """Averages of ``parameters``, kept in ``optimizer.state``; does nothing with ``decay`` 0."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (counted from 0).

        Early averages forget faster, ``(1 + step) / (10 + step)``, so that the beginning does not weigh on them.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for parameter in self._parameters.values() if self._decay else ():
            state = self._optimizer.state.get(parameter)
            if not state:  # the optimiser has still to begin it, which it does only where nothing is
                continue
            if SLOT in state:
                state[SLOT].lerp_(parameter, 1 - decay)
            else:
                state[SLOT] = parameter.detach().clone()

    @torch.no_grad()
    def take(self) -> None:
        """Put the averages in the place of the weights."""
        for parameter in self._parameters.values():
            average: Tensor | None = self._optimizer.state.get(parameter, {}).get(SLOT)
            if average is not None:
                parameter.copy_(average)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, the averages stand in the place of the weights."""
        weights = [p.detach().clone() for p in self._parameters.values()] if self._decay else []
        self.take()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weight in zip(self._parameters.values(), weights, strict=False):
                    parameter.copy_(weight)
