"""A trial measures and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.config.schema import TrainSection
from hantune.data.batch import collate_samples
from hantune.train.parallel import make_accelerator
from hantune.train.precision import choose_precision
from hantune.train.step import DoesNotFit
from hantune.train.trial import try_batches
from tests.train.test_loop import CPU, Chats, make_loop, weights


def tried(model: Any, *cuts: list[int]) -> Any:
    accelerator = make_accelerator(CPU, choose_precision("float32", CPU, is_adapter=False, num_parameters=1))
    samples = Chats()
    return try_batches(
        model, accelerator, TrainSection(), [collate_samples(samples, cut, layout="sorted", pad_id=3) for cut in cuts]
    )


def test_a_run_after_a_trial_is_bit_identical(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    ends = []
    for name in ("with", "without"):
        model = tiny_llama(sp_tokenizer, attention_dropout=0.1)
        loop, _ = make_loop(tmp_path / name, model, max_steps=3)
        torch.manual_seed(1)
        if name == "with":
            tried(model, [0, 1], [2])
        ends.append((weights(model), torch.get_rng_state()))
        loop.train()
        ends.append((weights(model), torch.get_rng_state()))
    for with_trial, without in zip(ends[:2], ends[2:], strict=True):
        assert torch.equal(with_trial[1], without[1])
        assert all(torch.equal(weight, without[0][name]) for name, weight in with_trial[0].items())


def test_the_cost_tells_size_time_and_peak(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer).eval()
    small, large = tried(model, [0], list(range(24)))
    lengths = Chats().lengths
    assert (small.positions, small.num_tokens) == (lengths[0], lengths[0])
    assert (large.positions, large.num_tokens) == (24 * lengths.max(), lengths.sum())
    assert small.seconds > 0
    assert large.peak_bytes is None or large.peak_bytes > large.grown_bytes
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failed_trial_leaves_nothing_either(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer, attention_dropout=0.1)
    before = torch.get_rng_state()
    full = torch.OutOfMemoryError("no memory")

    def fail(module: Any, inputs: Any, output: Any) -> None:
        if output[0].shape[0] > 10:
            raise full

    model.model.register_forward_hook(fail)
    with pytest.raises(DoesNotFit) as caught:
        tried(model, [0], list(range(24)))
    assert caught.value.batch.indices == tuple(range(24))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
