"""Held-out loss: sums over batches are the whole, however it is cut, and nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hantune.data.batch import collate
from hantune.data.types import Example
from hantune.evaluate.perplexity import HeldOut, held_out

EXAMPLES = [
    Example(ids=(1, *range(20, 20 + length), 2), mask=(0, 0, *(1 for _ in range(length)))) for length in (3, 5, 9)
]


def test_figures_by_hand() -> None:
    measured = HeldOut(nats=math.log(8) * 4, tokens=4, characters=6)
    assert measured.loss == pytest.approx(math.log(8))
    assert measured.perplexity == pytest.approx(8)
    assert measured.bits_per_character == pytest.approx(2)
    assert set(measured.as_dict()) == {"loss", "perplexity", "bits_per_character", "tokens", "characters"}


def test_nothing_to_measure_is_not_a_number() -> None:
    nothing = HeldOut(nats=0, tokens=0, characters=0)
    assert math.isnan(nothing.loss)
    assert math.isnan(nothing.perplexity)
    assert math.isnan(nothing.bits_per_character)
    assert HeldOut(nats=1e6, tokens=1, characters=1).perplexity == math.inf


def test_one_by_one_equals_together(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer)
    together = replace(collate(EXAMPLES, layout="sorted", pad_id=259), num_characters=17)
    alone = [replace(collate([e], layout="sorted", pad_id=259), num_characters=1) for e in EXAMPLES]
    first, second = held_out(model, [together]), held_out(model, alone)
    assert first.tokens == second.tokens == 17
    assert (first.characters, second.characters) == (17, 3)
    assert first.nats == pytest.approx(second.nats, rel=1e-5)


def test_an_untrained_model_is_as_unsure_as_its_vocabulary_is_large(
    tiny_bloom: Callable[..., Any], byte_tokenizer: Any
) -> None:
    measured = held_out(tiny_bloom(byte_tokenizer), [collate(EXAMPLES, layout="sorted", pad_id=3)])
    assert measured.loss == pytest.approx(math.log(len(byte_tokenizer)), rel=0.1)


def test_modes_gradients_and_chance_stay(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer, attention_dropout=0.5).train()
    chance = torch.get_rng_state()
    batches = [collate(EXAMPLES, layout="sorted", pad_id=259)]
    assert held_out(model, batches) == held_out(model, batches)
    assert torch.equal(chance, torch.get_rng_state())
    assert model.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
