"""What a step must multiply, against what torch counts; and a measured rate that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hantune.config.schema import AdapterSection
from hantune.data.batch import collate
from hantune.models.adapter import attach_lora
from hantune.models.load import load_in_fp8
from hantune.models.loss import supervised_nats
from hantune.train import floor
from hantune.train.floor import Work, matmul_rate, measured_floor, work_of
from tests.train.test_loop import Chats

CPU = torch.device("cpu")


def counted(model: Any, *, backward: bool = True) -> tuple[float, dict[str, int]]:
    """FLOP that torch counts for one document, and the document's numbers."""
    batch = collate(Chats(1).examples, layout="sorted", pad_id=3)
    with torch.no_grad():
        supervised_nats(model, batch)  # the first call looks at the model once
    counter = FlopCounterMode(display=False)
    with counter:
        nats, count = supervised_nats(model, batch)
        if backward:
            nats.backward()
    numbers = {"tokens": batch.num_tokens, "supervised": count, "squares": batch.num_tokens**2}
    return counter.get_total_flops(), numbers


def needed(model: Any, numbers: dict[str, int]) -> float:
    """The same by formula. Eager attention multiplies all pairs, not only those that a token may see: twice as many."""
    numbers = {**numbers, "squares": 2 * numbers["squares"]}
    work = work_of(model)
    assert work is not None
    return work.of(**numbers)


@pytest.fixture
def tiny(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Callable[..., Any]:
    """A Llama with the attention that torch's counter sees on a CPU."""
    return lambda **changes: tiny_llama(sp_tokenizer, attn_implementation="eager", **changes)


def test_full_training_multiplies_what_torch_counts(tiny: Callable[..., Any]) -> None:
    model = tiny()
    flop, numbers = counted(model)
    assert needed(model, numbers) == pytest.approx(flop, rel=1e-6)


def test_a_frozen_model_multiplies_forward_only(tiny: Callable[..., Any]) -> None:
    model = tiny().requires_grad_(False)
    flop, numbers = counted(model, backward=False)
    assert needed(model, numbers) == pytest.approx(flop, rel=1e-6)


def test_lora_needs_no_gradient_of_frozen_weights(tiny: Callable[..., Any]) -> None:
    """The lowest layers share an input that needs no gradient: they are counted as if it did."""
    model = attach_lora(tiny(num_hidden_layers=6), AdapterSection(rank=4), seed=0)
    flop, numbers = counted(model)
    assert flop <= needed(model, numbers) <= flop * 1.04


def test_below_the_lowest_learned_layer_nothing_goes_back(tiny: Callable[..., Any]) -> None:
    model = tiny(num_hidden_layers=4).requires_grad_(False)
    for parameter in model.model.layers[3].parameters():
        parameter.requires_grad_(True)
    flop, numbers = counted(model)
    assert flop <= needed(model, numbers) <= flop * 1.04


def test_pairs_of_a_document_cost_twice_more_where_gradients_pass(tiny: Callable[..., Any]) -> None:
    model = tiny(num_hidden_layers=4, head_dim=6)
    width = model.config.num_attention_heads * 6
    found = work_of(model)
    assert found is not None
    assert found.pair == 6 * 4 * width
    assert (work_of(model.requires_grad_(False)) or found).pair == 2 * 4 * width
    for parameter in model.model.layers[3].parameters():
        parameter.requires_grad_(True)
    assert (work_of(model) or found).pair == (2 * 3 + 6) * width


def test_bloom_and_a_learned_head_are_known(tiny_bloom: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_bloom(byte_tokenizer)
    flop, numbers = counted(model)
    assert needed(model, numbers) == pytest.approx(flop, rel=1e-6)


def test_matrices_that_are_no_linear_layers_are_not_guessed(tiny: Callable[..., Any]) -> None:
    model = tiny()
    model.model.experts = torch.nn.Parameter(torch.zeros(64, 64, 64))
    assert work_of(model) is None


def test_work_adds_up() -> None:
    work = Work(token=4.0, label=2.0, pair=1.0, shape=(1, 1))
    assert work.of(tokens=10, supervised=3, squares=50) == 40 + 6 + 50


def test_a_base_in_fp8_is_measured_by_products_of_8_bits(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_in_fp8(tiny_llama_folder, dtype=torch.bfloat16, device="cpu")
    monkeypatch.setattr(floor, "MEASURED_SECONDS", 0.01)
    found = measured_floor(model, CPU, torch.bfloat16, rows=32)
    assert found is not None
    assert found.rate == matmul_rate(CPU, torch.float8_e4m3fn, rows=32, shape=found.work.shape) > 0


def test_the_rate_is_measured_once_and_leaves_no_trace() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    rates = [matmul_rate(CPU, dtype, rows=64, shape=(64, 128)) for dtype in (torch.float32, torch.bfloat16)]
    assert all(rate > 1e6 for rate in rates)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert matmul_rate(CPU, torch.float32, rows=64, shape=(64, 128)) == rates[0]
