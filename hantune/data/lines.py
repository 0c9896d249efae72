"""A block of LCCC lines as columns at once: what ``formats/lccc.py`` says, without a Python object per utterance.

    bytes ─ quotes ─> strings ─ blanks of the segmentation taken out ─> texts ─ made alike ─> ids

Everything happens on the bytes of UTF-8; a byte is taken out by writing ``DROP`` there. A line that is not plainly a
dialogue of segmented utterances is left out and named, to be read one by one.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hantune.data.formats.common import CONTROL
from hantune.data.prepared import MESSAGE, SCHEMA
from hantune.data.split import DIGEST, MARKS, normal_text
from hantune.data.strings import (
    BLANK,
    LETTER,
    NEWLINE,
    ODD,
    OUTSIDE,
    STOP,
    Characters,
    Strings,
    is_text,
    plain_strings,
    unescaped,
)
from hantune.data.types import Role
from hantune.data.words import ranges

Array = np.ndarray[Any, Any]
ActsOn = Callable[[bytes, Array], Array]
"""Texts one after another and where each ends -> for each whether it is to be looked at."""
DROP = 0xFF
LONGEST = 1 << 14
"""Bytes from which a line gains nothing by being read with others."""


class Dialogues(NamedTuple):
    """The dialogues of some lines."""

    lines: Array
    """The index of the line of each dialogue."""
    others: Array
    """The indices of the lines that are to be read one by one; blank ones are not among them."""
    batch: pa.RecordBatch
    """``prepared.SCHEMA``, a row a dialogue."""
    digests: bytes
    """The ``DIGEST`` bytes behind each id."""


def read_lines(
    data: bytes, place: str, first: int = 1, max_turns: int | None = None, acts_on: ActsOn | None = None
) -> Dialogues | None:
    """The dialogues among the lines of ``data``; None where the block is of another kind, or no UTF-8.

    ``place``: the file; ``first``: the number of the first line. ``acts_on``: dialogues with such a text are left out.
    """
    if not data[:64].lstrip().startswith(b"[") or not is_text(data):
        return None
    data = unescaped(data if data.endswith(b"\n") else data + b"\n")
    lines, others, strings = plain_strings(data)
    if strings is None:
        return None
    is_odd, removed = _blanks(strings)
    characters = Characters.of(strings)
    is_odd[strings.owners(characters.places[_is_odd_point()[characters.points]])] = True
    texts = _Texts.of(strings, removed, is_odd, max_turns)
    if acts_on and len(texts.strings):
        is_odd[texts.strings[acts_on(texts.data, texts.ends)]] = True
        texts = _Texts.of(strings, removed, is_odd, max_turns)
    digests = _digests(texts, *_normal(texts, characters))
    here = lines[texts.lines]
    sources = pc.binary_join_element_wise(place, pc.cast(pa.array(first + here), pa.string()), ":")
    batch = pa.record_batch([texts.rows(), sources, _hex(digests)], schema=SCHEMA)
    return Dialogues(here, np.sort(np.append(others, np.delete(lines, texts.lines))), batch, digests)


def _blanks(strings: Strings) -> tuple[Array, Array]:
    """Which strings are odd for their blanks (or empty), and which blanks the segmentation put there.

    Odd: blanks that are not single, or at an edge; what is no ``U+0020`` is looked for elsewhere.
    """
    kinds, opens, closes = strings.kinds, strings.opens, strings.closes
    is_odd = closes - opens == 1
    is_odd[strings.owners(np.flatnonzero(kinds == ODD))] = True
    blanks = np.flatnonzero(kinds == BLANK)
    before, after = kinds[blanks - 1], kinds[blanks + 1]
    is_odd[strings.owners(blanks[(before == BLANK) | (before == OUTSIDE) | (after == OUTSIDE)])] = True
    joins_words = (before == LETTER) | ((before == STOP) & (kinds[blanks - 2] == LETTER))
    is_meant = joins_words & (after == LETTER)
    if is_meant.any():
        meant = np.flatnonzero(is_meant)
        is_meant[meant[_are_by_letter(strings, strings.owners(blanks[meant]))]] = False
    return is_odd, blanks[~is_meant]


def _are_by_letter(strings: Strings, numbers: Array) -> Array:
    """Whether each of these strings is segmented into single characters."""
    chosen, back = np.unique(numbers, return_inverse=True)
    begins, sizes = strings.opens[chosen] + 1, (strings.closes - strings.opens)[chosen] - 1
    places = ranges(begins, sizes)
    starts = np.cumsum(sizes) - sizes
    characters = np.add.reduceat((strings.array[places] & 0xC0) != 0x80, starts, dtype=np.int64)
    blanks = np.add.reduceat(strings.kinds[places] == BLANK, starts, dtype=np.int64)
    found: Array = (characters == 2 * blanks + 1)[back]
    return found


@functools.cache
def _is_odd_point() -> Array:
    """Whether a text with the code point is read one by one: blanks of other kinds, control characters."""
    is_odd = np.zeros(0x110000, bool)
    is_odd[[point for point in range(0x10000) if chr(point).isspace() or CONTROL.match(chr(point))]] = True
    return is_odd


SAME, UNSURE, UNMET = 0x110000, 0x110001, 0x110002


class _Normal:
    """Per code point what NFKC and case folding make of it: ``SAME``, one ASCII character, or ``UNSURE``.

    Sure only where nothing before the character can change it: its decomposition begins with no combining character.
    """

    def __init__(self) -> None:
        self._table = np.full(0x110000, UNMET, np.uint32)
        decomposed = (unicodedata.decomposition(chr(point)).split() for point in range(0x11_000))
        self._seconds = {int(parts[1], 16) for parts in decomposed if len(parts) == 2 and not parts[0].startswith("<")}
        self._seconds |= {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}

    def __call__(self, points: Array) -> Array:
        becomes = self._table[points]
        if (becomes == UNMET).any():
            for point in np.unique(points[becomes == UNMET]).tolist():
                self._table[point] = self._judge(chr(point))
            becomes = self._table[points]
        return becomes

    def _judge(self, letter: str) -> int:
        first = unicodedata.normalize("NFKD", letter)[0]
        result = unicodedata.normalize("NFKC", letter).casefold()
        if unicodedata.combining(first) or ord(first) in self._seconds:
            return UNSURE
        if result == letter:
            return SAME
        is_ascii = len(result) == 1 and result.isascii() and len(letter.encode()) == 3
        return ord(result) if is_ascii else UNSURE


_normal_points = functools.cache(_Normal)
ELLIPSIS = ord("…")
"""Three bytes that NFKC turns into three others, and common."""
LOWER = bytes(range(256)).lower()


class _Texts(NamedTuple):
    """The texts of those lines that are dialogues, message by message: user and assistant in turn."""

    source: Strings
    strings: Array
    """The string behind each message."""
    lines: Array
    """The line behind each dialogue."""
    counts: Array
    """How many messages each dialogue has."""
    kept: Array
    """The bytes of the lines, ``DROP`` where nothing of a message stands."""
    data: bytes
    """The messages one after another, in UTF-8."""
    ends: Array
    """Where each message ends in ``data``."""

    @classmethod
    def of(cls, source: Strings, removed: Array, is_odd: Array, max_turns: int | None) -> _Texts:
        """The dialogues without an odd string; ``removed``: blanks that are none of the text."""
        ends = np.cumsum(source.counts)
        odd_before = np.append(0, np.cumsum(is_odd))
        is_good = (source.counts > 1) & (odd_before[ends] == odd_before[ends - source.counts])
        lines = np.flatnonzero(is_good & (source.sizes < LONGEST))
        counts = source.counts[lines] // 2 * 2
        counts = np.minimum(counts, 2 * max_turns) if max_turns else counts
        strings = ranges((ends - source.counts)[lines], counts)
        opens, closes = source.opens[strings], source.closes[strings]
        kept = source.array.copy()
        kept[source.outside] = DROP
        kept[removed] = DROP
        left = np.delete(np.arange(len(source.opens)), strings)
        kept[ranges(source.opens[left], source.closes[left] - source.opens[left])] = DROP
        sizes = closes - opens - 1 - (np.searchsorted(removed, closes) - np.searchsorted(removed, opens))
        data = kept.tobytes().translate(None, bytes([DROP]))
        return cls(source, strings, lines, counts, kept, data, np.cumsum(sizes))

    @property
    def starts(self) -> Array:
        """The first message of each dialogue."""
        return np.cumsum(self.counts) - self.counts

    def rows(self) -> pa.ListArray:
        """The dialogues as ``prepared.SCHEMA`` has them."""
        names, count = ("user", "assistant"), len(self.strings)
        ends = np.cumsum(np.tile(np.array(list(map(len, names))), count // 2))
        roles = _string_array(ends, "".join(names).encode() * (count // 2))
        columns = [roles, _string_array(self.ends, self.data), pa.array(np.arange(count) % 2 == 1)]
        messages = pa.StructArray.from_arrays(columns, fields=list(MESSAGE))
        return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(self.counts)), pa.int32()), messages)

    def dialogue(self, number: int) -> list[tuple[Role, str]]:
        """Role and text of each message of one dialogue."""
        start = int(self.starts[number])
        ends = np.append(0, self.ends)[start : start + int(self.counts[number]) + 1].tolist()
        texts = [self.data[begin:end].decode() for begin, end in zip(ends, ends[1:], strict=False)]
        return [("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]


def _string_array(ends: Array, data: bytes) -> pa.StringArray:
    offsets = pa.py_buffer(np.append(0, ends).astype(np.int32))
    return pa.StringArray.from_buffers(len(ends), offsets, pa.py_buffer(data))


def _normal(texts: _Texts, characters: Characters) -> tuple[list[bytes], Array]:
    """What ``split.content_id`` hashes of each dialogue, and the dialogues for which that is not sure.

    Marks of the roles take the place of the quotes, and a line end the place of what stands before the first one.
    """
    if not len(texts.lines):
        return [], np.zeros(0, np.int64)
    normal, opens = texts.kept.copy(), texts.source.opens[texts.strings]
    is_there = normal[characters.places] != DROP
    places, points = characters.places[is_there], characters.points[is_there]
    becomes = _normal_points()(points)
    is_ascii = becomes < SAME
    normal[places[is_ascii]] = becomes[is_ascii]
    normal[places[is_ascii] + 1] = normal[places[is_ascii] + 2] = DROP
    dots = places[points == ELLIPSIS]
    normal[dots] = normal[dots + 1] = normal[dots + 2] = ord(".")
    normal[opens[::2]], normal[opens[1::2]] = ord(MARKS["user"]), ord(MARKS["assistant"])
    firsts = opens[texts.starts]
    normal[firsts - 1] = NEWLINE
    unsure = places[(becomes == UNSURE) & (points != ELLIPSIS)]
    dialogues = normal.tobytes().translate(LOWER, bytes([DROP]) + b" ").split(b"\n")[1:]
    return dialogues, np.unique(np.searchsorted(firsts, unsure) - 1)


def _digests(texts: _Texts, normal: list[bytes], unsure: Array) -> bytes:
    """The digest of each dialogue, as ``split.content_id`` has it."""
    for number in unsure.tolist():
        normal[number] = normal_text(texts.dialogue(number)).encode()
    return b"".join([blake2b(each, digest_size=DIGEST).digest() for each in normal])


def _hex(digests: bytes) -> pa.StringArray:
    """The digests in hexadecimal."""
    return _string_array(np.arange(2 * DIGEST, 2 * len(digests) + 1, 2 * DIGEST), digests.hex().encode())
