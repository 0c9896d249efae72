"""Laws of sampling: filters keep what they say, chance is our own, greedy uses none."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hantune.errors import ConfigError
from hantune.infer.sample import SamplingParams, keep_top_k, keep_top_p, next_token, penalise_repetition

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12).map(lambda values: torch.tensor(values))


def kept(logits_V: Tensor) -> set[int]:
    return set(torch.isfinite(logits_V).nonzero().flatten().tolist())


@given(logits_V=LOGITS, k=st.integers(0, 14))
def test_top_k_keeps_k_and_changes_none_of_them(logits_V: Tensor, k: int) -> None:
    result = keep_top_k(logits_V, k)
    ids = kept(result)
    assert len(ids) == (min(k, len(logits_V)) or len(logits_V))
    assert all(result[i] == logits_V[i] for i in ids)
    rest = set(range(len(logits_V))) - ids
    assert all(logits_V[i] >= logits_V[j] for i in ids for j in rest)


@given(logits_V=LOGITS, p=st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits_V: Tensor, p: float) -> None:
    ids = kept(keep_top_p(logits_V, p))
    probabilities = logits_V.double().softmax(0)
    mass = float(sum(probabilities[i] for i in ids))
    assert ids
    assert mass >= p - 1e-5
    assert len(ids) == 1 or mass - float(min(probabilities[i] for i in ids)) < p + 1e-5


def test_repetition_penalty_by_hand() -> None:
    logits_V = torch.tensor([2.0, -2.0, 1.0])
    assert penalise_repetition(logits_V, [0, 1, 1], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert next_token(torch.tensor([2.0, 1.5]), SamplingParams(repetition_penalty=2.0), seen=[0]) == 1


def test_drawn_shares_are_the_probabilities() -> None:
    logits_V = torch.tensor([0.1, 0.2, 0.7]).log()
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=1.0)
    drawn = torch.tensor([next_token(logits_V, params, generator) for _ in range(3000)])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.7]), atol=0.03)


def test_a_seed_repeats_and_the_global_generator_is_never_touched() -> None:
    logits_V = torch.zeros(1000)
    before = torch.get_rng_state()
    answers = []
    for seed in (7, 7, 8, None):
        params = SamplingParams(temperature=1.0, seed=seed)
        generator = params.generator()
        answers.append([next_token(logits_V, params, generator) for _ in range(5)])
    assert answers[0] == answers[1] != answers[2]
    assert torch.equal(before, torch.get_rng_state())


def test_greedy_needs_no_chance() -> None:
    assert SamplingParams(seed=3).generator() is None
    assert next_token(torch.tensor([0.0, 3.0, 3.0]), SamplingParams()) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0}, {"temperature": -1}, {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
        {"repetition_penalty": 0}, {"stops": ("",)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**bad)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.place) == ("infer.sampling", next(iter(bad)))
