"""NEFTune's noise: of the right size, each sample's own wherever it lies, and only in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hantune.data.batch import Batch, collate
from hantune.data.pack import Layout
from hantune.models.loss import is_head_last, supervised_nats
from hantune.train.neftune import noisy_embeddings, sample_spans
from tests.train.test_loop import Chats

EXAMPLES = Chats(6).examples
ALPHA = 5.0


@pytest.fixture(params=["llama", "bloom"])
def model(request: pytest.FixtureRequest, sp_tokenizer: Any, byte_tokenizer: Any) -> Any:
    tokenizer = sp_tokenizer if request.param == "llama" else byte_tokenizer
    return request.getfixturevalue(f"tiny_{request.param}")(tokenizer).train()


def batch_of(numbers: Sequence[int], layout: Layout) -> Batch:
    made = collate([EXAMPLES[number] for number in numbers], layout=layout, pad_id=3)
    return replace(made, indices=tuple(numbers))


def embeddings(model: Any, batch: Batch, **settings: Any) -> Tensor:
    """The embeddings of a batch under noise, B x T x D."""
    with noisy_embeddings(model, batch, **({"alpha": ALPHA, "seed": 0, "step": 0} | settings)), torch.no_grad():
        found: Tensor = model.get_input_embeddings()(batch.tokens_BT)
    return found


def by_sample(batch: Batch, values_BTD: Tensor) -> dict[int, Tensor]:
    """Each sample's part, L x D."""
    spans = zip(batch.indices, sample_spans(batch), strict=True)
    return {number: values_BTD[row, start : start + length] for number, (row, start, length) in spans}


def noise(model: Any, numbers: Sequence[int], **settings: Any) -> dict[int, Tensor]:
    """What is added to each sample."""
    batch = batch_of(numbers, "sorted")
    return by_sample(batch, embeddings(model, batch, **settings) - embeddings(model, batch, alpha=0.0))


@pytest.mark.parametrize("layout", ["sorted", "packed"])
def test_spans_are_those_of_the_samples(layout: Layout) -> None:
    numbers = [4, 0, 2, 5]
    batch = batch_of(numbers, layout)
    found = [tuple(batch.tokens_BT[row, start : start + length].tolist()) for row, start, length in sample_spans(batch)]
    assert found == [EXAMPLES[number].ids for number in numbers]


def test_a_sample_gets_the_same_noise_wherever_it_lies(model: Any) -> None:
    """With the same bits: packed, padded beside longer ones, or alone; so a step may be cut at will."""
    batches = [batch_of(range(6), "packed"), batch_of([5, 3, 0], "packed"), batch_of([1, 4, 2], "sorted")]
    batches += [batch_of([number], "sorted") for number in range(6)]
    first, *others = (by_sample(batch, embeddings(model, batch)) for batch in batches)
    assert all(torch.equal(values, first[number]) for other in others for number, values in other.items())


def test_the_size_is_by_the_samples_own_length(model: Any) -> None:
    width = model.get_input_embeddings().weight.shape[1]
    for number, added in noise(model, range(6)).items():
        size = ALPHA / math.sqrt(len(EXAMPLES[number].ids) * width)
        assert 0.9 * size < float(added.abs().max()) <= size * (1 + 1e-4)
        assert abs(float(added.mean())) < 0.2 * size
        assert float(added.norm()) == pytest.approx(ALPHA / math.sqrt(3), rel=0.1), "the paper's measure"


def test_padding_gets_none(model: Any) -> None:
    batch = batch_of(range(6), "sorted")
    assert batch.mask_BT is not None
    added = embeddings(model, batch) - embeddings(model, batch, alpha=0.0)
    assert not added[batch.mask_BT == 0].any()


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}])
def test_another_seed_and_another_step_draw_anew(model: Any, change: dict[str, int]) -> None:
    first, other, again = noise(model, [0, 1]), noise(model, [0, 1], **change), noise(model, [0, 1])
    assert not torch.allclose(first[0], other[0])
    assert torch.equal(first[0], again[0])
    assert first[0].shape != first[1].shape or not torch.allclose(first[0], first[1])


def test_only_training_is_noisy_and_no_trace_is_left(model: Any) -> None:
    batch = batch_of(range(6), "sorted")
    with torch.no_grad():
        plain = supervised_nats(model, batch)[0]
        before = torch.get_rng_state()
        with noisy_embeddings(model, batch, alpha=ALPHA, seed=0, step=0):
            assert not torch.equal(supervised_nats(model, batch)[0], plain)
            assert torch.equal(supervised_nats(model.eval(), batch)[0], plain)
        assert torch.equal(supervised_nats(model.train(), batch)[0], plain)
    assert torch.equal(before, torch.get_rng_state())


def test_the_probe_of_the_head_is_not_disturbed(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer).train()
    with noisy_embeddings(model, batch_of([0], "packed"), alpha=ALPHA, seed=0, step=0):
        assert is_head_last(model)


def test_a_half_precision_model_stays_in_its_precision(model: Any) -> None:
    assert embeddings(model.bfloat16(), batch_of([0, 1], "sorted")).dtype == torch.bfloat16
