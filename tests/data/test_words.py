"""Equal words have equal numbers and others have others, however many there are and whenever they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data import words as words_module
from hantune.data.words import LONGEST, Words, gather, texts_of
from tests.laws import examples

FIRST = 0x110000
word_lists = st.lists(st.text("ab\0好😀", min_size=1, max_size=LONGEST + 3), min_size=1, max_size=30)


def number(words: Words, given: list[str]) -> list[int]:
    points = np.frombuffer("".join(given).encode("utf-32-le"), "<u4")
    sizes = np.array([len(word) for word in given])
    return [int(each) for each in words.number(points, np.cumsum(sizes) - sizes, sizes)]


@given(batches=st.lists(word_lists, min_size=1, max_size=3))
@examples(20, 60)
def test_a_number_for_each_word(batches: list[list[str]]) -> None:
    words, known = Words(FIRST), dict[str, int]()
    for batch in batches:
        for word, found in zip(batch, number(words, batch), strict=True):
            assert known.setdefault(word, found) == found
            assert (found == ord(word)) if len(word) == 1 else (found >= FIRST)
    assert len(set(known.values())) == len(known)
    assert words.count > max(known.values())


def test_the_table_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "FIRST_SLOTS_BITS", 2)
    words = Words(FIRST)
    given = [f"{left}{right}{left}" for left in "abcdefghij" for right in "klmnopqrst"]
    before = number(words, given[:7])
    assert number(words, given)[:7] == before
    assert len(set(number(words, given))) == len(given)
    assert len(words._keys) >= 2 * words._used


def test_full(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words(FIRST)
    number(words, ["ab", "abc", "x" * 40])
    assert not words.is_full
    for limit in ("MOST_WORDS", "MOST_LETTERS"):
        with monkeypatch.context() as patch:
            patch.setattr(words_module, limit, 2)
            assert words.is_full


def test_gather_takes_slices() -> None:
    source = np.arange(10)
    assert gather(source, np.array([7, 0, 4]), np.array([2, 0, 3])).tolist() == [7, 8, 4, 5, 6]
    assert gather(source, np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_texts_of_slices() -> None:
    points = np.frombuffer("你好\0😀ok".encode("utf-32-le"), "<u4")
    assert texts_of(points, np.array([3, 0, 1]), np.array([3, 1, 2])) == ["😀ok", "你", "好\0"]
