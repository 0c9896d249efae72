"""Laws of sampling: filters keep what they say, chance is our own, and a row's token depends on that row alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hantune.infer.sample as sample
from hantune.errors import ConfigError
from hantune.infer.sample import Sampler, SamplingParams, candidates, log_probabilities, next_tokens
from tests.laws import examples

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12).map(lambda values: torch.tensor([values]))


def kept(found: tuple[Tensor, Tensor]) -> set[int]:
    shares_BK, ids_BK = found
    return set(ids_BK[0][shares_BK[0] > 0].tolist())


def draw(logits_BV: Tensor, count: int, **settings: Any) -> list[int]:
    """``count`` tokens of one row by one chance."""
    sampler = Sampler(SamplingParams(temperature=1.0, seed=0, **settings))
    return [next_tokens(logits_BV, [sampler])[0] for _ in range(count)]


@given(logits_BV=LOGITS, k=st.integers(1, 14))
def test_top_k_keeps_the_k_likeliest(logits_BV: Tensor, k: int) -> None:
    ids = kept(candidates(logits_BV, k, 1.0))
    assert len(ids) == min(k, logits_BV.shape[1])
    rest = set(range(logits_BV.shape[1])) - ids
    assert all(logits_BV[0, i] >= logits_BV[0, j] for i in ids for j in rest)


@given(logits_BV=LOGITS, p=st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits_BV: Tensor, p: float) -> None:
    ids = kept(candidates(logits_BV, logits_BV.shape[1], p))
    probabilities = logits_BV[0].double().softmax(0)
    mass = float(sum(probabilities[i] for i in ids))
    assert ids
    assert mass >= p - 1e-5
    assert len(ids) == 1 or mass - float(min(probabilities[i] for i in ids)) < p + 1e-5


@examples(15, 40)
@given(logits_BV=LOGITS, p=st.floats(0.05, 0.999), tries=st.sampled_from([1, 2, 8]))
def test_drawing_again_stays_in_the_nucleus(logits_BV: Tensor, p: float, tries: int) -> None:
    """The way without sorting draws from the sorted one's set (a sum within 1e-5 of p may fall either way)."""
    before, sample.TRIES = sample.TRIES, tries
    try:
        drawn = set(draw(logits_BV, 30, top_p=p))
    finally:
        sample.TRIES = before
    assert drawn <= kept(candidates(logits_BV, logits_BV.shape[1], min(p + 1e-5, 1.0)))


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.8}, {"top_k": 2}, {"top_k": 3, "top_p": 0.8}])
def test_drawn_shares_are_the_probabilities_of_what_is_kept(settings: dict[str, Any]) -> None:
    logits_BV = torch.tensor([[0.05, 0.25, 0.6, 0.1]]).log()
    wanted = torch.tensor([0.05, 0.25, 0.6, 0.1])
    if settings:
        wanted[[0, 3]] = 0  # 0.6 + 0.25 >= 0.8, and they are the two likeliest
    if settings == {"top_k": 3, "top_p": 0.8}:
        wanted = torch.tensor([0.0, 0.25, 0.6, 0.0])
    drawn = torch.tensor(draw(logits_BV, 3000, **settings))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(shares, wanted / wanted.sum(), atol=0.03)
    assert all(shares[wanted == 0] == 0)


MIXED = [
    SamplingParams(),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.7, top_p=0.9, seed=2),
    SamplingParams(temperature=2.0, top_p=0.9, seed=3),
    SamplingParams(temperature=1.0, top_k=5, seed=2**70),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(temperature=1.0, frequency_penalty=1.0, presence_penalty=-0.5, top_k=9, top_p=0.5, seed=-4),
]


def test_what_a_row_gets_depends_on_that_row_alone() -> None:
    logits = [torch.randn(len(MIXED), 300, generator=torch.Generator().manual_seed(step)) * 3 for step in range(20)]
    together = [Sampler(params, [1, 2, 3]) for params in MIXED]
    rows = [next_tokens(logits_BV, together) for logits_BV in logits]
    for row, params in enumerate(MIXED):
        alone = Sampler(params, [1, 2, 3])
        assert [next_tokens(logits_BV[row : row + 1], [alone])[0] for logits_BV in logits] == [r[row] for r in rows]


def test_penalties_by_hand() -> None:
    logits_V = torch.tensor([2.0, -2.0, 1.0])
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), [0, 1, 1, 7])
    assert sampler.penalise(logits_V).tolist() == [1.0, -4.0, 1.0]
    sampler.note(2)
    assert sampler.penalise(logits_V).tolist() == [1.0, -4.0, 0.5]
    sampler = Sampler(SamplingParams(frequency_penalty=0.5, presence_penalty=1.0), [0, 1])
    assert sampler.penalise(logits_V).tolist() == logits_V.tolist()
    sampler.note(0)
    sampler.note(0)
    assert sampler.penalise(logits_V).tolist() == [0.0, -2.0, 1.0]


def test_penalties_change_the_choice_and_not_the_given_logits() -> None:
    logits_BV = torch.tensor([[2.0, 1.9, 0.0]])
    sampler = Sampler(SamplingParams(presence_penalty=1.0))
    assert [next_tokens(logits_BV, [sampler])[0] for _ in range(3)] == [0, 1, 0]
    assert logits_BV.tolist() == torch.tensor([[2.0, 1.9, 0.0]]).tolist()


def test_a_seed_repeats_and_the_global_generator_is_never_touched() -> None:
    logits_BV = torch.zeros(1, 1000)
    before = torch.get_rng_state()
    answers = []
    for seed in (7, 7, 8, None):
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed))
        answers.append([next_tokens(logits_BV, [sampler])[0] for _ in range(5)])
    assert answers[0] == answers[1] != answers[2]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("temperature", [1e-320, 1e-6, 1e-4, 1e30, 1e308])
def test_any_temperature_draws_a_token(temperature: float) -> None:
    logits_BV = torch.tensor([[0.0, 40.0, -40.0]])
    for filters in ({}, {"top_p": 0.9}, {"top_k": 2}, {"repetition_penalty": 100.0, "presence_penalty": 2.0}):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=1, **filters), [1])
        tokens = [next_tokens(logits_BV, [sampler])[0] for _ in range(5)]
        assert set(tokens) <= ({0, 1, 2} if temperature > 1 else {0, 1})
        assert tokens[0] == 1 or temperature > 1 or "repetition_penalty" in filters


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert next_tokens(torch.tensor([[0.0, 3.0, 3.0]]), [Sampler(SamplingParams(seed=3))]) == [1]


@given(logits_BV=LOGITS)
def test_log_probabilities_are_those_of_the_model(logits_BV: Tensor) -> None:
    size = logits_BV.shape[1]
    most = min(size, 3)
    nothing, own, three = log_probabilities(logits_BV.expand(3, -1), [0, 0, size - 1], [None, 0, most])
    wanted = logits_BV[0].log_softmax(0)
    assert nothing is None
    assert own is not None
    assert own.chosen == pytest.approx(float(wanted[0]), abs=1e-5)
    assert own.top == ()
    assert three is not None
    assert [value for _, value in three.top] == pytest.approx(sorted(wanted.tolist())[::-1][:most], abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0}, {"temperature": -1}, {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
        {"repetition_penalty": 0}, {"stops": ("",)}, {"frequency_penalty": 2.1}, {"presence_penalty": math.nan},
        {"logprobs": -1}, {"logprobs": 21}, {"top_p": math.nan}, {"repetition_penalty": math.inf},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**bad)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.place) == ("infer.sampling", next(iter(bad)))
