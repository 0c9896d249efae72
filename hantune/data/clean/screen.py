"""Texts that no rule would touch, told from all of them at once: most texts, and these need no rule to be run.

A rule says what a text must hold for it to do anything (``Hint``); that may be more than it needs, never less.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hantune.data.borders import to_points

Array = np.ndarray[Any, Any]
Judge = Callable[[Array, Array], Array]
"""Code points of texts one after another (uint32), and where each text ends -> a bool for each text."""
Hint = tuple[str, ...] | Judge
"""Strings of which a text must hold one, or a judge."""
SINGLE = np.uint32(1 << 31)
"""The bit of a needle of one character; longer ones share the bits below."""


class Screen:
    """``screen(data, ends)`` for the texts of ``data`` (UTF-8, each up to one of ``ends``): whether a rule may act."""

    def __init__(self, hints: Sequence[Hint]) -> None:
        self._judges = [hint for hint in hints if callable(hint)]
        needles = [needle for hint in hints if not callable(hint) for needle in hint]
        self._first, self._second = np.zeros(0x110000, np.uint32), np.zeros(0x110000, np.uint32)
        for number, needle in enumerate(needles):
            bit = SINGLE if len(needle) == 1 else np.uint32(1 << number % 31)
            self._first[ord(needle[0])] |= bit
            if len(needle) > 1:
                self._second[ord(needle[1])] |= bit

    def __call__(self, data: bytes, ends: Array) -> Array:
        points = to_points(data.decode())
        is_start = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
        ends = np.cumsum(is_start)[ends - 1]
        first, second = self._first[points], self._second[points]
        hits = np.flatnonzero((first & np.append(second[1:], np.uint32(0))) | (first & SINGLE))
        acts = np.zeros(len(ends), bool)
        acts[np.searchsorted(ends, hits, "right")] = True
        for judge in self._judges:
            acts |= judge(points, ends)
        return acts


def characters(*patterns: re.Pattern[str]) -> tuple[str, ...]:
    """The characters that one of the patterns matches."""
    return tuple("".join(match for pattern in patterns for match in pattern.findall(_everything())))


@functools.cache
def _everything() -> str:
    """Every character there is."""
    return "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))


def longer(size: int) -> Judge:
    """Texts of that many characters or more."""
    return lambda points, ends: np.diff(ends, prepend=0) >= size


def repeated(longest: int, times: int) -> Judge:
    """Texts where something of at most ``longest`` characters comes ``times`` times in a row."""

    def judge(points: Array, ends: Array) -> Array:
        is_there = np.zeros(len(ends), bool)
        for period in range(1, longest + 1):
            again = points[period:] == points[:-period]
            hits = again
            for _ in range(times - 2):
                again = again[period:]
                hits = hits[: len(again)] & again
            is_there[np.searchsorted(ends, np.flatnonzero(hits), "right")] = True
        return is_there

    return judge


def without(kind: re.Pattern[str]) -> Judge:
    """Texts without a character that the pattern matches."""
    return lambda points, ends: _counts(_table(kind)[points], ends) == 0


def fewer(kind: re.Pattern[str], share: float, among: re.Pattern[str]) -> Judge:
    """Texts where less than this share of the characters of one kind are of the other."""
    return lambda points, ends: _counts(_table(kind)[points], ends) < share * _counts(_table(among)[points], ends)


@functools.cache
def _table(kind: re.Pattern[str]) -> Array:
    """Per code point whether the pattern matches it."""
    table = np.zeros(0x110000, bool)
    table[to_points("".join(kind.findall(_everything())))] = True
    return table


def _counts(flags: Array, ends: Array) -> Array:
    """How many flags each text has."""
    return np.diff(np.append(0, np.cumsum(flags))[ends], prepend=0)
