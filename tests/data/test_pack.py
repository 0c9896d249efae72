"""Steps and micro-batches: every sample once, the same steps however they are cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.pack import epoch_steps, micro_batches, num_steps, useful_share

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


def test_sorting_makes_padding_small() -> None:
    lengths = np.random.default_rng(0).integers(10, 120, size=4096)
    batches = [step.tolist() for step in epoch_steps(lengths, 8, seed=0, epoch=0)]
    shuffled = [list(range(i, i + 8)) for i in range(0, 4096, 8)]
    assert useful_share(batches, lengths, "sorted") > 0.98
    assert useful_share(shuffled, lengths, "sorted") < 0.7
    assert useful_share(batches, lengths, "packed") == 1.0


def test_a_step_is_the_same_samples_however_it_is_cut() -> None:
    lengths = np.random.default_rng(1).integers(5, 50, size=64)
    step = epoch_steps(lengths, 8, seed=3, epoch=0)[0]
    one_by_one = micro_batches(step, lengths, batch_size=1, batch_tokens=None, layout="sorted")
    at_once = micro_batches(step, lengths, batch_size=8, batch_tokens=None, layout="sorted")
    assert [i for batch in one_by_one for i in batch] == at_once[0]
