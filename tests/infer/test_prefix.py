"""What was read before is found again by its beginning, under its own adapter, within its memory."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hantune.infer.cache import KeysValues
from hantune.infer.prefix import SHORTEST, PrefixStore, _common

IDS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


def layers(length: int) -> list[KeysValues]:
    """16 bytes a column."""
    return [(torch.zeros(1, length, 2), torch.zeros(1, length, 2))]


@given(one=IDS, other=IDS)
def test_the_common_beginning_is_the_longest(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    length = _common(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


def test_the_longest_beginning_is_found_and_the_last_token_is_always_computed() -> None:
    store = PrefixStore(10_000)
    text = list(range(40))
    store.keep("a", [*text[:20], 99], layers(21))
    store.keep("a", text, layers(40))
    found = store.find("a", [*text, 7])
    assert found is not None
    assert found.length == 40
    found = store.find("a", text)
    assert found is not None
    assert found.length == 39
    assert store.find("b", text) is None
    assert store.find(None, text) is None
    assert store.find("a", [*text[: SHORTEST - 1], 7, 7]) is None


def test_a_text_that_goes_on_takes_the_place_of_its_beginning() -> None:
    store = PrefixStore(10_000)
    for length in (20, 30, 40):
        store.keep(None, range(length), layers(length))
    assert len(store) == 1
    assert store.held_bytes == 40 * 16


def test_the_least_recently_used_is_forgotten_first() -> None:
    store = PrefixStore(20 * 16 * 2)
    texts = [[first, *range(1, 20)] for first in (100, 200, 300)]
    store.keep(None, texts[0], layers(20))
    store.keep(None, texts[1], layers(20))
    assert store.find(None, texts[0])
    store.keep(None, texts[2], layers(20))
    assert [store.find(None, text) is not None for text in texts] == [True, False, True]
    assert store.held_bytes <= store.max_bytes
    store.keep(None, range(1000), layers(1000))
    assert len(store) == 2
    store.clear()
    assert (len(store), store.held_bytes) == (0, 0)
