"""Keys and values of texts that were read before, for prompts that begin in the same way.

A system prompt shared by many requests and a history that grows by a turn are one case: the longest beginning that a
new prompt has in common with something remembered is copied instead of computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from hantune.infer.cache import KeysValues

SHORTEST = 16
"""Fewer common tokens than this are computed again: copying would save nothing."""


class Prefix(NamedTuple):
    """What is known of a prompt: ``layers`` hold at least ``length`` columns."""

    length: int
    layers: list[KeysValues]


class PrefixStore:
    """The most recently used texts, at most ``max_bytes`` of keys and values."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._texts: OrderedDict[tuple[str | None, tuple[int, ...]], list[KeysValues]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._texts)

    def find(self, adapter: str | None, ids: Sequence[int]) -> Prefix | None:
        """The longest known beginning of ``ids`` under ``adapter``, without its last token (it must be computed)."""
        wanted = tuple(ids)
        best, found = SHORTEST - 1, None
        for key in self._texts:
            if key[0] == adapter and (common := _common(key[1], wanted[:-1])) > best:
                best, found = common, key
        if found is None:
            return None
        self._texts.move_to_end(found)
        return Prefix(best, self._texts[found])

    def keep(self, adapter: str | None, ids: Sequence[int], layers: list[KeysValues]) -> None:
        """Remember a text; what it continues, and what was not used for longest, is forgotten."""
        size = _size(layers)
        if len(ids) < SHORTEST or size > self.max_bytes:
            return
        text = tuple(ids)
        for key in [key for key in self._texts if key[0] == adapter and key[1] == text[: len(key[1])]]:
            self._forget(key)
        self._texts[adapter, text] = layers
        self.held_bytes += size
        while self.held_bytes > self.max_bytes:
            self._forget(next(iter(self._texts)))

    def clear(self) -> None:
        self._texts.clear()
        self.held_bytes = 0

    def _forget(self, key: tuple[str | None, tuple[int, ...]]) -> None:
        self.held_bytes -= _size(self._texts.pop(key))


def _size(layers: Sequence[KeysValues]) -> int:
    return sum(tensor.nbytes for pair in layers for tensor in pair)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many ids from the start are the same, by halving."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low
