"""The frozen head's cross-entropy is autograd's: value and gradient, however it is cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hantune.models import head
from hantune.models.head import summed_cross_entropy


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradient(
    bias: bool, is_frozen: bool, chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_ROWS", chunk)
    torch.manual_seed(0)
    layer = nn.Linear(8, 50, bias=bias).requires_grad_(not is_frozen)
    rows, targets = torch.randn(9, 8, requires_grad=True), torch.randint(0, 50, (9,))
    expected = F.cross_entropy(layer(rows), targets, reduction="sum", label_smoothing=smoothing)
    (wanted,) = torch.autograd.grad(3 * expected, rows, retain_graph=True)
    found = summed_cross_entropy(layer, rows, targets, smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(3 * found, rows, retain_graph=True)[0], wanted, rtol=1e-5, atol=1e-6)
    if not is_frozen:
        ours, theirs = (torch.autograd.grad(nats, layer.weight)[0] for nats in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_head_of_which_only_the_bias_is_learned_learns_it() -> None:
    layer = nn.Linear(4, 5)
    layer.weight.requires_grad_(False)
    rows, targets = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 2])
    expected = F.cross_entropy(layer(rows), targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, layer.bias)
    (found,) = torch.autograd.grad(summed_cross_entropy(layer, rows, targets), layer.bias)
    torch.testing.assert_close(found, wanted)


def test_another_loss_is_used_only_where_something_is_learned() -> None:
    layer = nn.Linear(4, 5).requires_grad_(False)
    head.use_loss(layer, lambda layer, rows, targets, smoothing: rows.sum() * 0 + 42)
    rows, targets = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 2])
    assert summed_cross_entropy(layer, rows, targets).item() == 42
    assert summed_cross_entropy(layer, rows[:0], targets[:0]).item() == 0
    with torch.no_grad():
        assert summed_cross_entropy(layer, rows, targets).item() != 42
    assert summed_cross_entropy(layer, rows.detach(), targets).item() != 42


def test_a_hopeless_target_costs_a_finite_number() -> None:
    layer = nn.Linear(1, 2, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.tensor([[0.0], [1000.0]]))
    rows = torch.ones(1, 1, requires_grad=True)
    nats = summed_cross_entropy(layer, rows, torch.tensor([0]))
    nats.backward()
    assert float(nats.detach()) == 1000.0
    assert rows.grad is not None
    assert float(rows.grad) == 1000.0


def test_nothing_to_learn_is_zero_with_a_gradient() -> None:
    layer = nn.Linear(4, 5).requires_grad_(False)
    rows = torch.randn(0, 4, requires_grad=True)
    nats = summed_cross_entropy(layer, rows, torch.zeros(0, dtype=torch.long))
    nats.backward()
    assert float(nats.detach()) == 0
    assert rows.grad is not None


def test_without_gradients_nothing_is_kept() -> None:
    layer = nn.Linear(4, 5).requires_grad_(False)
    rows, targets = torch.randn(3, 4), torch.tensor([0, 1, 2])
    expected = F.cross_entropy(layer(rows), targets, reduction="sum")
    torch.testing.assert_close(summed_cross_entropy(layer, rows, targets), expected, rtol=1e-6, atol=0)
