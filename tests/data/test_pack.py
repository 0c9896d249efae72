"""Steps and micro-batches: every sample once, the same steps however they are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.pack import Layout, epoch_steps, largest_batch, micro_batches, num_steps, useful_share

lengths_of = st.lists(st.integers(1, 200), min_size=1, max_size=300).map(np.array)


@given(lengths_of, st.integers(1, 32), st.integers(0, 5), st.integers(0, 3))
def test_every_sample_stands_in_exactly_one_step(lengths: np.ndarray, size: int, seed: int, epoch: int) -> None:
    steps = epoch_steps(lengths, size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(lengths)))
    assert len(steps) == num_steps(len(lengths), size)
    assert all(len(step) <= size for step in steps)


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    lengths = np.arange(1, 101)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [step.tolist() for step in epoch_steps(lengths, 8, seed=seed, epoch=epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@given(
    lengths_of,
    st.integers(1, 16),
    st.one_of(st.none(), st.integers(1, 400)),
    st.sampled_from(["sorted", "packed"]),
)
def test_micro_batches_keep_their_budget(lengths: np.ndarray, size: int, budget: int | None, layout: str) -> None:
    batches = micro_batches(
        range(len(lengths)), lengths, batch_size=size, batch_tokens=budget, layout=layout  # type: ignore[arg-type]
    )
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        own = lengths[batch]
        computed = own.sum() if layout == "packed" else own.max() * len(batch)
        assert len(batch) <= size
        assert budget is None or len(batch) == 1 or computed <= budget


@pytest.mark.parametrize("layout", ["sorted", "packed"])
def test_a_budget_may_be_used_up_to_its_last_token(layout: Layout) -> None:
    cut: dict[str, Any] = {"batch_size": 8, "layout": layout}
    lengths = np.array([5, 5])
    assert micro_batches(range(2), lengths, batch_tokens=10, **cut) == [[0, 1]]
    assert micro_batches(range(2), lengths, batch_tokens=9, **cut) == [[0], [1]]
    assert largest_batch(lengths, batch_tokens=10, **cut) == [0, 1]


def test_the_largest_row_may_be_filled_to_the_last_token() -> None:
    lengths = np.array([6, 5, 4])
    assert largest_batch(lengths, batch_size=8, batch_tokens=10, layout="packed") == [0, 2]


@given(lengths_of, st.integers(1, 16), st.integers(1, 400), st.sampled_from(["sorted", "packed"]))
def test_the_order_in_which_samples_come_makes_no_difference(
    lengths: np.ndarray, size: int, budget: int, layout: Layout
) -> None:
    cut: dict[str, Any] = {"batch_size": size, "batch_tokens": budget, "layout": layout}
    samples = range(len(lengths))
    assert micro_batches(samples, lengths, **cut) == micro_batches(samples[::-1], lengths, **cut)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 16), st.integers(1, 400))
def test_packed_rows_are_few_and_even(drawn: list[int], size: int, budget: int) -> None:
    """As few as filling one after the other needs, and none is fuller than it must be."""
    lengths = np.array(drawn)
    rows = micro_batches(range(len(lengths)), lengths, batch_size=size, batch_tokens=budget, layout="packed")
    filled, used, count = 1, 0, 0
    for length in sorted(drawn, reverse=True):
        if count and (count == size or used + length > budget):
            filled, used, count = filled + 1, 0, 0
        used, count = used + length, count + 1
    assert len(rows) <= filled
    even = -(-sum(drawn) // len(rows))
    assert max(computed(row, lengths, "packed") for row in rows) < max(even + 2 * max(drawn), 1 + budget // 2)


def computed(batch: list[int], lengths: np.ndarray, layout: str) -> int:
    own = lengths[batch]
    return int(own.sum() if layout == "packed" else own.max() * len(batch))


@given(lengths_of, st.integers(1, 16), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 900)))
def test_no_micro_batch_of_a_run_is_larger_than_the_largest(
    lengths: np.ndarray, size: int, times: int, budget: int | None
) -> None:
    cut: dict[str, Any] = {"batch_size": size, "batch_tokens": budget}
    largest = {layout: largest_batch(lengths, layout=layout, **cut) for layout in ("sorted", "packed")}
    for layout, batch in largest.items():
        assert len(set(batch)) == len(batch) <= size
        assert budget is None or len(batch) == 1 or computed(batch, lengths, layout) <= budget
    for epoch in range(2):
        for step in epoch_steps(lengths, size * times, seed=1, epoch=epoch):
            for batch in micro_batches(step, lengths, layout="sorted", **cut):
                assert computed(batch, lengths, "sorted") <= computed(largest["sorted"], lengths, "sorted")


@pytest.mark.parametrize(("low", "high"), [(5, 200), (480, 600), (300, 1000)])
def test_the_largest_row_is_as_full_as_rows_get(low: int, high: int) -> None:
    lengths = np.random.default_rng(0).integers(low, high, size=2000)
    cut: dict[str, Any] = {"batch_size": 64, "batch_tokens": 1024, "layout": "packed"}
    steps = epoch_steps(lengths, 128, seed=0, epoch=0)
    fullest = max(computed(batch, lengths, "packed") for step in steps for batch in micro_batches(step, lengths, **cut))
    assert computed(largest_batch(lengths, **cut), lengths, "packed") >= 0.98 * fullest


def test_sorting_makes_padding_small() -> None:
    lengths = np.random.default_rng(0).integers(10, 120, size=4096)
    batches = [step.tolist() for step in epoch_steps(lengths, 8, seed=0, epoch=0)]
    random = [step.tolist() for step in epoch_steps(lengths, 8, seed=0, epoch=0, by_length=False)]
    assert useful_share(batches, lengths, "sorted") > 0.98
    assert useful_share(random, lengths, "sorted") < 0.7
    assert useful_share(batches, lengths, "packed") == 1.0


def test_a_step_is_the_same_samples_however_it_is_cut() -> None:
    lengths = np.random.default_rng(1).integers(5, 50, size=64)
    step = epoch_steps(lengths, 8, seed=3, epoch=0)[0]
    one_by_one = micro_batches(step, lengths, batch_size=1, batch_tokens=None, layout="sorted")
    at_once = micro_batches(step, lengths, batch_size=8, batch_tokens=None, layout="sorted")
    assert [i for batch in one_by_one for i in batch] == at_once[0]
