"""The split: equal conversations on one side, sides that stay, shares that hold, never an empty or a whole one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.split import (
    MIN_FOR_VAL,
    Draws,
    choose_sample,
    choose_val,
    content_id,
    draw,
    together,
)  # fmt: skip
from hantune.data.types import Conversation, Message

DRAWS = st.builds(
    lambda seed, count: np.random.default_rng(seed).integers(0, 2**64, count, np.uint64),
    st.integers(0, 2**32),
    st.integers(0, 60),
)


def conversation(question: str, answer: str, source: str = "") -> Conversation:
    messages = (Message(role="user", text=question), Message(role="assistant", text=answer))
    return Conversation(messages=messages, source=source)


def draws(count: int, seed: int = 42) -> Draws:
    return np.array([draw(content_id(conversation(f"问{i}", "答")), seed) for i in range(count)], np.uint64)


def test_ids_are_those_of_the_text() -> None:
    assert content_id(conversation("你好 ABC", "好")) == content_id(conversation("你好ａｂｃ\n", "好", source="b:2"))
    assert content_id(conversation("你好", "好")) != content_id(conversation("你好好", ""))
    assert content_id(conversation("你", "好")) != content_id(conversation("好", "你"))


def test_the_share_holds() -> None:
    for share in (0.01, 0.05, 0.2, 0.5):
        got = choose_val(draws(20_000), share).mean()
        assert abs(got - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_sides_stay_when_the_data_grow() -> None:
    for share in (0.05, 0.5):
        values = draws(2000)
        whole = choose_val(values, share)
        for count in (200, 777, 1999):
            assert (choose_val(values[:count], share) == whole[:count]).all()


@given(DRAWS, st.floats(0.001, 0.999))
def test_equal_draws_stay_together_and_neither_side_is_empty(values: Draws, share: float) -> None:
    values = np.concatenate([values, values])
    is_val = choose_val(values, share)
    half = len(values) // 2
    assert (is_val[:half] == is_val[half:]).all()
    if len(values) >= MIN_FOR_VAL:
        assert is_val.any()
    assert not len(values) or not is_val.all()


def test_extremes() -> None:
    assert not choose_val(draws(50), 0).any()
    assert choose_val(draws(50), 1).all()
    assert not choose_val(draws(0), 0.5).any()
    assert choose_val(draws(MIN_FOR_VAL), 1e-9).sum() == 1


def test_other_seeds_split_otherwise() -> None:
    assert (choose_val(draws(1000, 1), 0.5) != choose_val(draws(1000, 2), 0.5)).any()


@given(DRAWS, st.integers(1, 70), st.integers(1, 70))
def test_a_larger_sample_contains_a_smaller_one(values: Draws, one: int, other: int) -> None:
    among = np.arange(len(values)) % 3 > 0
    small, large = (choose_sample(values, among, count) for count in sorted((one, other)))
    assert not (small & ~large).any()
    assert not (large & ~among).any()
    assert large.sum() == min(max(one, other), among.sum())


def test_a_sample_is_no_first_n() -> None:
    chosen = choose_sample(draws(1000), np.ones(1000, bool), 100)
    assert 20 < chosen[:500].sum() < 80


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_all_that_hang_together_have_one_draw(rows: list[tuple[int, int, int]]) -> None:
    content = np.array([draw(str(row[0]), 1) for row in rows], np.uint64)
    keys = [content, *(np.array([row[place] for row in rows], np.int64) for place in (1, 2))]
    sides = together(content, keys)
    for key in keys:
        for value in np.unique(key):
            assert len(np.unique(sides[key == value])) == 1
    reached = {
        side: {row for row, mine in zip(rows, sides.tolist(), strict=True) if mine == side} for side in sides.tolist()
    }
    for one, group in reached.items():  # no more than that has
        for other, others in reached.items():
            assert one == other or not any(a[i] == b[i] for a in group for b in others for i in range(3))


def test_lone_conversations_keep_their_draw_and_large_groups_are_no_likelier_held_out() -> None:
    values = draws(40_000)
    keys = np.r_[np.arange(20_000), np.repeat(np.arange(20_000, 20_200), 100)]
    sides = together(values, [values, keys])
    assert (sides[:20_000] == values[:20_000]).all()
    assert abs(choose_val(sides[20_000:], 0.2).mean() - 0.2) < 0.12
