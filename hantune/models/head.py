"""Cross-entropy straight from the rows below a frozen head: logits live for a few hundred rows at a time.

The gradient of a sum of cross-entropies is known as soon as the logits are: softmax minus the target. It is taken in
the forward pass, while a chunk of logits is at hand, so that neither logits nor probabilities are kept.
Shape letters: N rows, D width, V vocabulary.
Source: Wijmans et al., Cut Your Losses (2024); Hsu et al., Liger Kernel (2024), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.models.prepack import product, product_back

CHUNK_ROWS = 256
"""Rows of logits that exist at once: 256 x 32,000 float32 numbers are 31 MiB."""


Loss = Callable[[nn.Linear, Tensor, Tensor, float], Tensor]
"""``loss(head, rows_ND, targets_N, smoothing)``."""
_other_losses: WeakKeyDictionary[nn.Module, Loss] = WeakKeyDictionary()


def use_loss(head: nn.Linear, loss: Loss) -> None:
    """From now on training takes the loss over this head from another function, a card's kernel."""
    _other_losses[head] = loss


def summed_cross_entropy(head: nn.Module, rows_ND: Tensor, targets_N: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Nats of ``targets_N`` under ``softmax(head(rows))`` in float32, summed.

    ``smoothing``: the share of each target's probability that goes to all V alike (Szegedy et al. 2016, section 7).
    """
    is_learning = rows_ND.requires_grad and torch.is_grad_enabled() and len(targets_N) > 0
    if is_learning and (other := _other_losses.get(head)):
        return other(head, rows_ND, targets_N, smoothing)  # type: ignore[arg-type]
    is_frozen = type(head) is nn.Linear and not any(parameter.requires_grad for parameter in head.parameters())
    if is_frozen and rows_ND.requires_grad and torch.is_grad_enabled():
        total: Tensor = _FrozenHead.apply(rows_ND, head, targets_N, smoothing)  # type: ignore[no-untyped-call]
        return total
    total = rows_ND[:0].float().sum()  # zero that still hangs on the graph, for a batch with nothing to learn
    for start in range(0, len(targets_N), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        logits_NV = head(rows_ND[part]).float()
        total = total + F.cross_entropy(logits_NV, targets_N[part], reduction="sum", label_smoothing=smoothing)
    return total


class _FrozenHead(torch.autograd.Function):
    """The sum, with the gradient of the rows ready before it is asked for."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, head: nn.Linear, targets_N: Tensor, smoothing: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=rows_ND.device)
        grad_ND = torch.empty_like(rows_ND)
        room_NV = rows_ND.new_empty(min(CHUNK_ROWS, len(targets_N)), head.out_features, dtype=torch.float32)
        for start in range(0, len(targets_N), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            targets = targets_N[part, None]
            logits = product(rows_ND[part], head)
            log_p = torch.log_softmax(room_NV[: len(logits)].copy_(logits), -1, out=room_NV[: len(logits)])
            total -= (1 - smoothing) * log_p.gather(1, targets).sum()
            if smoothing:
                total -= smoothing * log_p.mean(1).sum()
            d_logits = log_p.exp_()
            if smoothing:
                d_logits -= smoothing / head.out_features
            d_logits.scatter_add_(1, targets, d_logits.new_full(targets.shape, smoothing - 1))
            grad_ND[part] = product_back(logits.copy_(d_logits), head)
        ctx.save_for_backward(grad_ND)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grad, None, None, None
