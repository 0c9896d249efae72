"""One update: the same gradients however it is cut, clipped as asked; none from figures that are not numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hantune.data.batch import Batch, collate
from hantune.data.types import Example
from hantune.models.loss import supervised_nats
from hantune.train.loop import Loop
from hantune.train.step import Stepper
from tests.train.test_loop import Chats, make_loop, weights


def gradients(model: Any, cuts: list[list[Example]], layout: str) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and gradients of one step that is cut so."""
    model.zero_grad()
    batches = [collate(cut, layout=layout, pad_id=3) for cut in cuts]  # type: ignore[arg-type]
    supervised = sum(batch.num_supervised for batch in batches)
    total = 0.0
    for batch in batches:
        nats, count = supervised_nats(model, batch)
        assert count == batch.num_supervised
        (nats / supervised).backward()
        total += float(nats.detach())
    return total / supervised, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for name, gradient in one[1].items():
        scale = float(gradient.norm()) or 1.0
        assert float((gradient - other[1][name]).norm()) / scale < 1e-5, name


def test_packed_sorted_and_one_by_one_give_the_same_gradients(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    model = tiny_llama(sp_tokenizer)
    examples = Chats(8).examples
    one_by_one = gradients(model, [[example] for example in examples], "sorted")
    assert_same(one_by_one, gradients(model, [examples], "packed"))
    assert_same(one_by_one, gradients(model, [examples], "sorted"))
    assert_same(one_by_one, gradients(model, [examples[:3], examples[3:]], "packed"))


def test_bloom_sorted_equals_one_by_one(tiny_bloom: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_bloom(byte_tokenizer)
    examples = Chats(8).examples
    assert_same(
        gradients(model, [[example] for example in examples], "sorted"), gradients(model, [examples], "sorted")
    )


@pytest.fixture
def start(tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Callable[..., tuple[Loop, list[Batch]]]:
    """A run before its first step, and the micro-batches of that."""

    def make(**settings: Any) -> tuple[Loop, list[Batch]]:
        loop, _ = make_loop(tmp_path, tiny_llama(sp_tokenizer), **settings)
        return loop, loop._feed.micro_batches(0)

    return make


def gradients_used(stepper: Stepper, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Grows by all gradients of an update, as one vector."""
    used: list[Tensor] = []

    def take() -> None:
        used.append(torch.cat([p.grad.flatten() for p in stepper.parameters.values() if p.grad is not None]))

    monkeypatch.setattr(stepper.optimizer, "step", take)
    return used


def test_gradients_are_clipped_to_the_limit_and_told_as_they_were(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    used, told = [], []
    for limit in (None, 1e6, 0.5):
        loop, batches = start(max_grad_norm=limit)
        taken = gradients_used(loop.stepper, monkeypatch)
        told.append(loop.stepper.train(batches).grad_norm)
        used += taken
    whole, below, clipped = used
    assert torch.equal(whole, below)
    assert told == [pytest.approx(float(whole.norm()), rel=1e-5)] * 3
    assert told[0] > 1, "the usual limit would clip it"
    torch.testing.assert_close(clipped, whole * (0.5 / whole.norm()), rtol=1e-4, atol=1e-7)


def test_a_step_that_is_not_finite_changes_no_weight(start: Callable[..., Any]) -> None:
    loop, _ = start(max_steps=1)
    before = weights(loop.model)
    loop.model.lm_head.register_forward_hook(lambda module, inputs, output: output * math.nan)
    loop.train()
    assert loop.guards.bad_steps == 1
    assert all(torch.equal(weight, weights(loop.model)[name]) for name, weight in before.items())


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_the_first_update_will_take_is_what_it_took(start: Callable[..., Any], decay: float) -> None:
    loop, batches = start(ema_decay=decay)
    expected = loop.stepper.bytes_to_come()
    loop.stepper.train(batches)
    states = [slot for slots in loop.stepper.optimizer.state.values() for slot in slots.values()]
    assert sum(slot.nbytes for slot in states if slot.ndim) == expected
    assert loop.stepper.bytes_to_come() == 0


def test_averages_take_in_each_step_by_its_number(start: Callable[..., Any]) -> None:
    loop, batches = start(ema_decay=0.99)
    weight = loop.model.lm_head.weight
    after = []
    for step in range(3):
        loop.stepper.train(batches, step=step)
        after.append(weight.detach().clone())
    expected = after[0].lerp(after[1], 9 / 11).lerp(after[2], 9 / 12)
    torch.testing.assert_close(loop.stepper.optimizer.state[weight]["average"], expected)


def test_noise_is_drawn_anew_in_each_step(start: Callable[..., Any]) -> None:
    loop, batches = start(neftune_alpha=50.0)
    loop.model.train()
    loop.stepper.set_learning_rate(0.0)
    first, again, next_one = (loop.stepper.train(batches, step=step).loss for step in (0, 0, 1))
    assert first == again != next_one
