"""Counts say what numpy says of the numbers themselves, in whatever portions they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.counts import LARGEST, Class, Counts, bars, class_edges, classes_of

numbers = st.lists(st.integers(0, 5000), max_size=80)


def counted(values: list[int]) -> Counts:
    counts = Counts()
    counts.add(np.array(values, np.int64))
    return counts


@given(numbers, st.floats(0.01, 1))
def test_quantiles_are_the_smallest_value_that_enough_do_not_exceed(values: list[int], share: float) -> None:
    found = counted(values).quantile(share)
    reached = [value for value in sorted(values) if sum(v <= value for v in values) >= share * len(values)]
    assert found == (reached[0] if reached else 0)


@given(numbers)
def test_sums_and_classes(values: list[int]) -> None:
    counts = counted(values)
    found = counts.summary()
    assert (len(counts), found["total"], found["max"]) == (len(values), sum(values), max(values, default=0))
    assert found["mean"] == pytest.approx(sum(values) / max(1, len(values)), abs=0.051)
    for low, high, number in classes_of(found):
        assert number == sum(low <= value <= high for value in values)
    assert sum(each.number for each in classes_of(found)) == len(values)
    assert counts.below(8) == pytest.approx(sum(value < 8 for value in values) / max(1, len(values)))


@given(numbers, numbers)
def test_portions_and_merging_change_nothing(one: list[int], other: list[int]) -> None:
    merged = counted(one)
    merged.merge(counted(other))
    both = counted(one)
    both.add(np.array(other, np.int64))
    assert merged.summary() == both.summary() == counted(one + other).summary()


def test_classes_double_in_two_steps_and_lie_side_by_side() -> None:
    assert class_edges(40).tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    classes = counted([1, 100]).classes()
    assert (classes[0], classes[-1]) == (Class(1, 1, 1), Class(96, 127, 1))
    assert [a.high + 1 for a in classes[:-1]] == [b.low for b in classes[1:]]


def test_giants_take_no_memory_and_keep_their_sum() -> None:
    counts = counted([3, 50_000_000])
    assert (counts.total, counts.largest, counts.quantile(1)) == (50_000_003, 50_000_000, LARGEST)


def test_bars_fit_a_gbk_console() -> None:
    lines = bars(counted([1, 2, 3, 5, 5, 9, 3000]).classes())
    assert "\n".join(lines).encode("gbk")
    assert lines[1] == f"{'2-3':>13} {2:>11} {'28.6%':>6}  {'█' * 30}"
    assert any(line.endswith("0.0%") for line in lines)
    assert bars([]) == []
