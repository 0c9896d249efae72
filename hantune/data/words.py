"""Numbers for words, many at once: a trie whose steps stand in one hash table, walked for all words together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.uint32]
"""Code points of texts."""
Array = NDArray[Any]
EMPTY = np.int64(-1)
MIXER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: the upper bits of a product with it hang on all bits of the factor."""
POINT_BITS = 21
LONGEST = 24
"""Characters of a word beyond which it is looked up as a string: every step of the trie costs calls for all words."""
FIRST_SLOTS_BITS = 16
MOST_WORDS, MOST_LETTERS = 1 << 20, 1 << 24
"""Words, and characters of the long ones, that are remembered before all are forgotten."""


def ranges(begins: Array, counts: Array) -> Array:
    """``begin .. begin + count - 1`` one after another (int64)."""
    ends = np.cumsum(counts, dtype=np.int64)
    places: Array = np.repeat(begins - ends + counts, counts)
    places += np.arange(len(places))
    return places


def gather(source: Array, begins: Array, counts: Array) -> Array:
    """The slices ``source[begin : begin + count]`` one after another."""
    return np.asarray(source[ranges(begins, counts)])


def texts_of(points: Points, starts: Array, sizes: Array) -> list[str]:
    """Slices of ``points`` as strings."""
    text = gather(points, starts, sizes).astype("<u4").tobytes().decode("utf-32-le")
    ends = np.cumsum(sizes).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Words:
    """word -> its number. A word of one point has that point for its number; the others count on from ``first``."""

    def __init__(self, first: int) -> None:
        self.count = first
        self._bits = FIRST_SLOTS_BITS
        self._keys: Array = np.full(1 << self._bits, EMPTY)
        self._numbers: Array = np.zeros(1 << self._bits, np.int64)
        self._used = 0
        self._long: dict[str, int] = {}
        self._letters = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin anew."""
        return self._used + len(self._long) > MOST_WORDS or self._letters > MOST_LETTERS

    def number(self, points: Points, starts: Array, sizes: Array) -> Array:
        """The number (int64) of each of the words ``points[start : start + size]``; new words are entered."""
        numbers = points[starts].astype(np.int64)
        rest = np.flatnonzero(sizes > LONGEST)
        if len(rest):
            numbers[rest] = self._number_long(texts_of(points, starts[rest], sizes[rest]))
        rest = np.flatnonzero((sizes > 1) & (sizes <= LONGEST))
        sizes, nodes, places = sizes[rest], numbers[rest], starts[rest]
        for step in range(1, LONGEST):
            if not len(rest):
                break
            places += 1
            nodes = self._step((nodes << POINT_BITS) | points[places])
            going = sizes > step + 1
            numbers[rest[~going]] = nodes[~going]
            rest, sizes, nodes, places = rest[going], sizes[going], nodes[going], places[going]
        return numbers

    def _number_long(self, words: list[str]) -> list[int]:
        for word in words:
            if word not in self._long:
                self._long[word] = self.count
                self._letters += len(word)
                self.count += 1
        return [self._long[word] for word in words]

    def _step(self, keys: Array) -> Array:
        """The node behind each key (a node and the next point), made where there was none."""
        slots = self._find(keys)
        new = np.flatnonzero(self._keys[slots] == EMPTY)
        if len(new):
            missing = np.unique(keys[new])
            self._grow(len(missing))
            self._enter(missing, np.arange(self.count, self.count + len(missing)))
            self.count += len(missing)
            slots = self._find(keys)
        return np.asarray(self._numbers[slots])

    def _slots(self, keys: Array) -> Array:
        """Where each key would like to stand."""
        mixed: Array = (keys.view(np.uint64) * MIXER) >> np.uint64(64 - self._bits)
        return mixed.view(np.int64)

    def _find(self, keys: Array) -> Array:
        """The slot of each key: its own, or the empty one where it is not there."""
        slots = self._slots(keys)
        found = self._keys[slots]
        lost = np.flatnonzero((found != keys) & (found != EMPTY))
        while len(lost):
            slots[lost] = (slots[lost] + 1) & (len(self._keys) - 1)
            found = self._keys[slots[lost]]
            lost = lost[(found != keys[lost]) & (found != EMPTY)]
        return slots

    def _enter(self, keys: Array, numbers: Array) -> None:
        """Put in keys that are not there; of several that want one slot, one gets it and the others go on."""
        self._used += len(keys)
        while len(keys):
            slots = self._find(keys)
            self._keys[slots] = keys
            mine = self._keys[slots] == keys
            self._numbers[slots[mine]] = numbers[mine]
            keys, numbers = keys[~mine], numbers[~mine]

    def _grow(self, more: int) -> None:
        """At least half of the slots stay empty."""
        if 2 * (self._used + more) <= len(self._keys):
            return
        full = self._keys != EMPTY
        keys, numbers = self._keys[full], self._numbers[full]
        self._bits = int(4 * (self._used + more)).bit_length()
        self._keys, self._numbers = np.full(1 << self._bits, EMPTY), np.zeros(1 << self._bits, np.int64)
        self._used = 0
        self._enter(keys, numbers)
