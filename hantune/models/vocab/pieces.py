"""Which pieces a vocabulary should get: those that save the most tokens on the user's own text.

Byte-pair encoding (arXiv:1508.07909) continued from where the old vocabulary stops: text is what the old tokenizer
makes of it, and each step adds the piece that removes the most tokens from it now. New pieces are made of East Asian
characters only, so text without them keeps every id.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from hantune.log import console

RUN = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
    "|[\u3041-\u30ff\u31f0-\u31ff]+|[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]+"
    "|[\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffe6]+"
)
"""What one piece may consist of: Han, kana or hangul, or East Asian punctuation; never letters, digits or blanks."""
LEAST = 2
"""Tokens that a piece must save on the text to be worth a row."""


class Piece(NamedTuple):
    """A new piece as the tokenizer spells it, and how many tokens it saved on the text when it was chosen."""

    text: str
    saved: int


class Word(NamedTuple):
    """A stretch of text as the old tokenizer cuts it, and how often it occurs."""

    symbols: tuple[str, ...]
    times: int


def runs_of(texts: Iterable[str]) -> Counter[str]:
    """The stretches of text that new pieces may cover, with their counts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(RUN.findall(text))
    return counts


def overlaps_itself(text: str) -> bool:
    """Whether two places where ``text`` stands can overlap by other than half of it.

    ``哈哈哈`` in ``哈哈哈哈``: SentencePiece takes the leftmost, the Rust backend the merge that comes first.
    """
    return any(text.startswith(text[start:]) for start in range(1, len(text)) if 2 * start != len(text))


class Speller(Protocol):
    """What the choice needs of the old vocabulary."""

    pieces: dict[str, int]

    def spell(self, text: str) -> str: ...
    def symbols(self, word: str) -> tuple[str, ...]: ...
    def cost(self, symbol: str) -> int: ...
    def is_allowed(self, piece: str) -> bool: ...


def choose(words: Iterable[Word], limit: int, *, old: Speller) -> list[Piece]:
    """At most ``limit`` pieces, best first; each is a character or joins two that stand in the vocabulary before it."""
    text = _Text(words, old)
    characters = {symbol: (old.cost(symbol) - 1) * count for symbol, count in text.totals().items()}
    heap = [(-saved, symbol) for symbol, saved in characters.items() if saved and old.is_allowed(symbol)]
    heap += [(-count, piece) for piece, count in text.counts.items()]
    heapq.heapify(heap)
    chosen: list[Piece] = []
    with console.progress("选词", limit, unit="个") as bar:
        while heap and len(chosen) < limit:
            negative, piece = heapq.heappop(heap)
            is_character = piece in characters
            saved = characters[piece] if is_character else text.counts.get(piece, 0)
            if saved < LEAST:
                continue
            if saved < -negative:  # pieces taken since have taken some of its places
                heapq.heappush(heap, (-saved, piece))
                continue
            chosen.append(Piece(piece, saved))
            bar.advance()
            if not is_character:
                for grown in text.join(piece):
                    heapq.heappush(heap, (-text.counts[grown], grown))
    return chosen


def _numbers(values: Iterable[int] = ()) -> array[int]:
    """Numbers at four bytes each; a list takes nine times as much."""
    return array("i", values)


class _Text:
    """All words as one chain of symbols in which neighbours are joined; places are indices into it."""

    def __init__(self, words: Iterable[Word], old: Speller) -> None:
        self._old = old
        self._names: list[str] = [""]  # symbol 0 stands between words
        self._by_name: dict[str, int] = {"": 0}
        flat, weights = _numbers([0]), _numbers([0])
        for symbols, times in words:
            flat.extend([self._number(symbol) for symbol in symbols])
            weights.extend([times] * len(symbols))
            flat.append(0)
            weights.append(0)
        self._symbols, self._weights = flat, weights
        self._before = _numbers(range(-1, len(flat) - 1))
        self._after = _numbers(range(1, len(flat) + 1))
        self._joined: dict[tuple[int, int], str | None] = {}
        self._made: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._places: dict[str, array[int]] = defaultdict(_numbers)
        self._count_pairs()

    def _number(self, symbol: str) -> int:
        number = self._by_name.get(symbol)
        if number is None:
            number = self._by_name[symbol] = len(self._names)
            self._names.append(symbol)
        return number

    def totals(self) -> dict[str, int]:
        """How often each symbol stands in the text."""
        counts = np.bincount(self._symbols, weights=self._weights, minlength=len(self._names)).astype(int)
        return dict(zip(self._names[1:], counts[1:].tolist(), strict=True))

    def _result(self, left: int, right: int) -> str | None:
        """The piece that two neighbours would make, or None where they may not be joined."""
        key = (left, right)
        if key not in self._joined:
            piece = self._names[left] + self._names[right]
            is_new = bool(left and right) and piece not in self._old.pieces and self._old.is_allowed(piece)
            self._joined[key] = piece if is_new else None
        return self._joined[key]

    def _count_pairs(self) -> None:
        """Count all neighbours once, by sorting; pairs met only once are left out (most pairs, and no gain)."""
        symbols, weights = np.array(self._symbols, np.int64), np.array(self._weights, np.int64)
        codes = symbols[:-1] << 32 | symbols[1:]
        order = np.argsort(codes, kind="stable")
        values, starts = np.unique(codes[order], return_index=True)
        sums = np.add.reduceat(weights[:-1][order], starts)
        ends = np.append(starts[1:], len(order))
        for at in np.flatnonzero(sums >= LEAST).tolist():
            piece = self._result(int(values[at] >> 32), int(values[at] & 0xFFFFFFFF))
            if piece is not None:
                self.counts[piece] += int(sums[at])
                self._places[piece].extend(order[starts[at] : ends[at]].tolist())

    def join(self, piece: str) -> list[str]:
        """Make ``piece`` of its neighbours everywhere; returns the pieces that could now grow from it."""
        self._made.add(piece)
        symbols, before, after, weights = self._symbols, self._before, self._after, self._weights
        number = self._number(piece)
        grown: set[str] = set()
        for place in sorted(self._places.pop(piece)):
            left, following = symbols[place], after[place]
            if left < 1 or following >= len(symbols) or self._joined.get((left, symbols[following])) != piece:
                continue
            weight, preceding, behind = weights[place], before[place], after[following]
            right = symbols[following]
            self._change(symbols[preceding], left, preceding, -weight)
            self._change(right, symbols[behind], following, -weight)
            symbols[place], symbols[following] = number, -1
            after[place], before[behind] = behind, place
            for change in (
                self._change(symbols[preceding], number, preceding, weight),
                self._change(number, symbols[behind], place, weight),
            ):
                if change is not None:
                    grown.add(change)
        del self.counts[piece]
        return sorted(grown)

    def _change(self, left: int, right: int, place: int, by: int) -> str | None:
        """Count one pair of neighbours more or less; returns the piece they would make."""
        piece = self._result(left, right)
        if piece is None or piece in self._made or (by < 0 and piece not in self.counts):
            return None
        self.counts[piece] += by
        if by > 0:
            self._places[piece].append(place)
        return piece


def ways(piece: str, vocabulary: Collection[str]) -> list[tuple[str, str]]:
    """All pairs of pieces that make ``piece``."""
    cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
    return [(left, right) for left, right in cuts if left in vocabulary and right in vocabulary]


def with_ways(wanted: Iterable[str], old: Speller, limit: int | None) -> tuple[list[str], Counter[str]]:
    """The pieces of a list that can be added, each with what it takes to reach it; and why others cannot, counted."""
    have = set(old.pieces)
    chosen: list[str] = []
    left_out: Counter[str] = Counter()
    for text in dict.fromkeys(wanted):
        piece = old.spell(text)
        if limit is not None and len(chosen) >= limit:
            left_out["超过 --num-pieces"] += 1
        elif piece in have:
            left_out["词表里已经有"] += 1
        elif not RUN.fullmatch(text):
            left_out["不全是中文 (或夹着标点)"] += 1
        else:
            needed = _needed(piece, old, have)
            if all(map(old.is_allowed, needed)):
                chosen += needed
                have.update(needed)
            else:
                left_out["会和别的词混淆"] += 1
    return chosen, left_out


def _needed(piece: str, old: Speller, have: Collection[str]) -> list[str]:
    """``piece`` and what must come before it: its characters, and its beginnings if no two pieces make it."""
    symbols = old.symbols(piece)
    needed = dict.fromkeys(symbol for symbol in symbols if symbol not in have)
    if not ways(piece, {*needed, *have} if needed else have):
        grown = symbols[0]
        for symbol in symbols[1:]:
            grown += symbol
            if grown not in have:
                needed[grown] = None
    needed[piece] = None
    return list(needed)
