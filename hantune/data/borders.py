"""Token ids of many texts at once, by table: what the tokenizer says, without a loop.

A BPE token grows by merges, and the merge that first crosses the border between two characters joins a piece that ends
with the one to a piece that begins with the other. Where no merge does, no token ever crosses: the text falls apart
there into words that are encoded one by one and remembered. In Llama 2's vocabulary no merge touches a Han character,
so almost every word is one character, and its ids stand in a table by code point. Which characters may be joined is
said by ``Joins``; ``junctions.py`` proves it for a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np

from hantune.data.words import Array, Points, Words, gather, texts_of

BORDER = 0x110000
"""No character: no token crosses it, and it has no ids. Controls follow it, each with its id, and then phrases."""
BLANK = "▁"
"""What SentencePiece writes for a blank, and puts in front of a text."""
MOST_PHRASES = 4096
AT_ONCE = 1024
"""New words in one call; so few lists of ids live at once that Python's collector is not called for them."""
UNKNOWN = -1
APART, BY_MERGES, SOMEHOW = 0, 1, 2
"""How neighbours are joined. A word that is joined by merges all along is never split before BPE."""
EDGE, WIDE = 0, 1
"""Numbers of a side in ``Joins``: what joins nothing, and what joins all around it."""
WIDE_BEFORE, WIDE_AFTER = 1, 3
"""There is no border within so many characters of a wide one."""
Prefix = Literal["always", "unless-there", "never"]


class Joins(NamedTuple):
    """Which neighbours may stand in one word: ``table[left[point], right[next point]]``."""

    left: Array
    """By point, its number on the left side (uint16)."""
    right: Array
    table: Array
    """``APART``, ``BY_MERGES`` or ``SOMEHOW`` (uint8)."""
    spelling: Array
    """What the model is given: a letter for each byte, or, where there are more, for each point."""
    has_wide: bool = False
    added: tuple[Points, ...] = ()
    """Texts that a word must hold whole, with what is around them."""

    @property
    def reach(self) -> int:
        """How far from a border the characters stand that it may hang on."""
        return WIDE_AFTER + max(map(len, self.added), default=0) if self.has_wide else 1


def whole_texts() -> Joins:
    """The joins of a tokenizer of which nothing is known: the only borders are the ends of texts."""
    side = np.full(BORDER, WIDE, np.uint16)
    return Joins(side, side, np.array([[APART, APART], [APART, SOMEHOW]], np.uint8), np.arange(256))


class Borders:
    """One tokenizer as tables, and the words met so far."""

    def __init__(self, joins: Joins, bare: Any, controls: Sequence[int], prefix: Prefix = "never") -> None:
        """``bare``: the encoder that puts nothing before a text. ``controls``: the ids of the points behind ``BORDER``.

        ``prefix``: when ``opening`` is a ``▁``.
        """
        self.prefix = prefix
        beyond = np.full(1 + len(controls) + MOST_PHRASES, EDGE, np.uint16)
        self._left, self._right = np.append(joins.left, beyond), np.append(joins.right, beyond)
        self._joins = joins._replace(left=self._left, right=self._right)
        self.bare = bare
        self._fixed: list[Sequence[int]] = [[], *([control] for control in controls)]
        self._folded: dict[bytes, Points] = {}
        self._forget()

    def _forget(self) -> None:
        """Empty tables but for what has fixed ids: ``BORDER``, controls, phrases."""
        self._begin = np.zeros(len(self._left), np.int32)
        self._count = np.full(len(self._left), UNKNOWN, np.int32)
        self._pool, self._used = np.zeros(1 << 16, np.int32), 0
        self._words = Words(len(self._left))
        self._keep(np.arange(BORDER, BORDER + len(self._fixed)), self._fixed)

    def __getstate__(self) -> dict[str, Any]:
        """Without the encoder, which must be given again."""
        return vars(self) | {"bare": None}

    def opening(self, text: str) -> str:
        """What stands before a text that is encoded with the dummy prefix."""
        is_given = self.prefix == "unless-there" and text.startswith((" ", BLANK))
        return "" if self.prefix == "never" or is_given else BLANK

    def fold(self, points: Points) -> Points:
        """The same text with its middle as one point, for texts that come often between others."""
        key = points.tobytes()
        if key not in self._folded and len(self._folded) < MOST_PHRASES:
            self._folded[key] = self._fold(points)
        return self._folded.get(key, points)

    def _fold(self, points: Points) -> Points:
        cuts = np.flatnonzero(self._joined(points) == APART)
        edges = np.flatnonzero(points >= BORDER)
        first, last = self._joins.reach, len(points) - self._joins.reach
        if len(edges):
            first, last = min(first, edges[0]), max(last, edges[-1] + 1)
        cuts = cuts[(cuts >= first) & (cuts <= last)]
        if len(cuts) < 2:
            return points
        phrase = BORDER + len(self._fixed)
        self._fixed.append(self.encode(points[cuts[0] : cuts[-1]])[0].tolist())
        self._keep(np.array([phrase]), self._fixed[-1:])
        return np.concatenate([points[: cuts[0]], np.array([phrase], np.uint32), points[cuts[-1] :]])

    def encode(self, points: Points) -> tuple[Array, Array]:
        """The ids (int32), and how many of them each point brings (a word's ids stand at its first character)."""
        if self._words.is_full:
            self._forget()
        joined = self._joined(points)
        starts = np.flatnonzero(joined == APART)
        sizes = np.diff(starts, append=len(points))
        words = points[starts].astype(np.int64)
        several = np.flatnonzero(sizes > 1)
        if len(several):
            words[several] = self._words.number(points, starts[several], sizes[several])
        self._learn(words, points, joined, starts, sizes)
        counts = self._count[words]
        by_point = np.zeros(len(points), np.int32)
        by_point[starts] = counts
        return gather(self._pool, self._begin[words], counts), by_point

    def _joined(self, points: Points) -> Array:
        """How each point is joined to the point before it (uint8)."""
        joined = np.full(len(points), APART, np.uint8)
        left, right = self._left[points[:-1]], self._right[points[1:]]
        may = np.flatnonzero((left != EDGE) & (right != EDGE))
        joined[may + 1] = self._joins.table[left[may], right[may]]
        wide = [(np.flatnonzero(self._right[points] == WIDE), 1)] if self._joins.has_wide else []
        wide += [(_find(points, text), len(text)) for text in self._joins.added]
        for places, size in wide:
            for offset in range(-WIDE_BEFORE, size + WIDE_AFTER):
                near = places + offset
                joined[near[(near > 0) & (near < len(points))]] = SOMEHOW
        if wide:
            edges = np.flatnonzero(points >= BORDER)
            joined[edges] = APART
            joined[edges[edges < len(points) - 1] + 1] = APART
        return joined

    def _learn(self, words: Array, points: Points, joined: Array, starts: Array, sizes: Array) -> None:
        """Encode the words that were never met."""
        more = self._words.count - len(self._count)
        if more > 0:
            more += len(self._count) // 4
            self._begin = np.append(self._begin, np.zeros(more, np.int32))
            self._count = np.append(self._count, np.full(more, UNKNOWN, np.int32))
        places = np.flatnonzero(self._count[words] == UNKNOWN)
        if not len(places):
            return
        places = places[np.unique(words[places], return_index=True)[1]]
        splits = np.cumsum(joined == SOMEHOW)
        ends = starts[places] + sizes[places] - 1
        plain = (sizes[places] > 1) & (splits[ends] == splits[starts[places]])
        for encode, some in ((self._encode_plain, places[plain]), (self._encode_any, places[~plain])):
            for each in np.split(some, range(AT_ONCE, len(some), AT_ONCE)) if len(some) else ():
                self._keep(words[each], encode(points, starts[each], sizes[each]))

    def _encode_any(self, points: Points, starts: Array, sizes: Array) -> list[list[int]]:
        """The ids of words, by the tokenizer."""
        encodings = self.bare.encode_batch_fast(texts_of(points, starts, sizes), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _encode_plain(self, points: Points, starts: Array, sizes: Array) -> list[list[int]]:
        """The same for words that merges alone make: by its model, in a fourth of the time."""
        letters, spelling = gather(points, starts, sizes), self._joins.spelling
        if len(spelling) == 256:
            long = 1 + sum((letters >= least).astype(np.int64) for least in (0x80, 0x800, 0x10000))
            sizes = np.add.reduceat(long, np.cumsum(sizes) - sizes)
            letters = np.frombuffer(letters.astype("<u4").tobytes().decode("utf-32-le").encode(), np.uint8)
        spelled, tokenize = spelling[letters].astype(np.uint32), self.bare.model.tokenize
        return [[token.id for token in tokenize(text)] for text in texts_of(spelled, np.cumsum(sizes) - sizes, sizes)]

    def _keep(self, words: Array, ids: Sequence[Sequence[int]]) -> None:
        """Remember the ids of words."""
        counts = np.fromiter(map(len, ids), np.int32, len(ids))
        end = self._used + int(counts.sum())
        if end > len(self._pool):
            self._pool = np.append(self._pool, np.zeros(max(end, len(self._pool)), np.int32))
        self._pool[self._used : end] = np.fromiter(chain.from_iterable(ids), np.int32, end - self._used)
        self._begin[words], self._count[words] = self._used + np.cumsum(counts) - counts, counts
        self._used = end


def _find(points: Points, text: Points) -> Array:
    """Where ``text`` begins in ``points``."""
    places = np.flatnonzero(points[: max(len(points) - len(text) + 1, 0)] == text[0])
    for number, point in enumerate(text[1:], 1):
        places = places[points[places + number] == point]
    return places


def to_points(text: str) -> Points:
    """The code points of a text (uint32)."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
