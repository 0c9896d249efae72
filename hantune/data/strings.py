"""Lines of JSON that are lists of strings, as arrays: where each string stands, and the kind of each of its bytes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from hantune.data.words import ranges

Array = np.ndarray[Any, Any]
BLANK, LETTER, STOP, LEAD, ODD, BROKEN, OUTSIDE = range(1, 8)
"""Kinds of bytes: ``LEAD`` begins a character to be looked up, ``BROKEN`` may not stand in a string."""
QUOTE, NEWLINE, BACKSLASH = b'"\n\\'
_BLANKS, _STRING = r"[ \t\r]*", r'"[^"\\\x00-\x1f]*"'
PLAIN_LINE = re.compile(rf"{_BLANKS}\[{_BLANKS}{_STRING}(?:{_BLANKS},{_BLANKS}{_STRING})*{_BLANKS}\]{_BLANKS}".encode())
ESCAPED = 0.2
"""Share of lines with ``\\u`` from which it pays to write all of them anew."""


class Strings(NamedTuple):
    """The strings of some plain lines."""

    array: Array
    """The bytes of the lines (uint8)."""
    kinds: Array
    opens: Array
    closes: Array
    """Where the quotes of each string stand."""
    outside: Array
    """Where what is in no string stands, quotes included."""
    counts: Array
    """How many strings each line has."""
    sizes: Array
    """How many bytes."""

    def owners(self, places: Array) -> Array:
        """The string that each place is in."""
        return np.searchsorted(self.opens, places) - 1


def _byte_kinds() -> Array:
    """The kind of each byte; 0 is of no interest: Han characters, what follows in a character, marks of ASCII."""
    kinds = np.zeros(256, np.uint8)
    kinds[:0x20] = BROKEN
    kinds[0x20], kinds[0x7F] = BLANK, ODD
    kinds[[*b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]] = LETTER
    kinds[[*b",.!?;:"]] = STOP
    kinds[0xC0:] = LEAD
    kinds[0xE4:0xEA] = 0  # U+4000 to U+9FFF
    return kinds


BYTE_KINDS = _byte_kinds()


def is_text(data: bytes) -> bool:
    """Whether ``data`` is valid UTF-8."""
    ends = np.array([0, len(data)], np.int32)
    try:
        pa.BinaryArray.from_buffers(pa.binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(data)]).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def unescaped(data: bytes) -> bytes:
    """The same lines, without ``\\u4f60`` where a good part of them is written so."""
    if b"\\" not in data or data.count(b"\\u") < ESCAPED * data.count(b"\n"):
        return data
    return b"".join([_rewritten(line) + b"\n" for line in data.split(b"\n")[:-1]])


def _rewritten(line: bytes) -> bytes:
    """The line as orjson writes its value; itself where it cannot be read."""
    try:
        return orjson.dumps(orjson.loads(line)) if b"\\u" in line else line
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return line


def plain_strings(data: bytes) -> tuple[Array, Array, Strings | None]:
    """The indices of the lines that are lists of strings without escapes, of the other lines, and those strings."""
    lines = np.arange(data.count(b"\n"))
    others = np.zeros(0, np.int64)
    if b"\\" in data:
        array = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(array == NEWLINE)
        others = np.unique(np.searchsorted(ends, np.flatnonzero(array == BACKSLASH)))
        begins, stops = np.append(0, ends[others] + 1), np.append(np.append(0, ends + 1)[others], len(data))
        data = b"".join([data[begin:stop] for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True)])
        lines = np.delete(lines, others)
    strings = _strings(data)
    if strings is None:
        each = data.split(b"\n")[:-1]
        is_plain = np.fromiter((PLAIN_LINE.fullmatch(line) is not None for line in each), bool, len(each))
        is_blank = np.fromiter((not line.strip() for line in each), bool, len(each))
        others = np.concatenate([others, lines[~is_plain & ~is_blank]])
        strings = _strings(b"".join([each[number] + b"\n" for number in np.flatnonzero(is_plain).tolist()]))
        lines = lines[is_plain]
    return lines, others, strings


def _strings(data: bytes) -> Strings | None:
    """The strings of lines without a backslash; None where a line is anything but a list of strings, or all are gone.

    What stands outside the strings, blanks aside, must be ``[""]`` a line with any number of ``,""`` before the ``]``.
    """
    array = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(array == QUOTE)
    if not len(quotes) or len(quotes) % 2:
        return None
    opens, closes = quotes[::2], quotes[1::2]
    begins = np.append(0, closes)
    outside = ranges(begins, np.append(opens + 1, len(array)) - begins)
    frame = array[outside].tobytes().translate(None, b" \t\r")
    is_plain = frame.replace(b',""', b"") == b'[""]\n' * data.count(b"\n")
    if not is_plain or frame.startswith(b",") or any(wrong in frame for wrong in (b"[,", b"],", b"\n,")):
        return None
    kinds = np.take(BYTE_KINDS, array)
    kinds[outside] = OUTSIDE
    if (kinds == BROKEN).any():
        return None
    ends = np.flatnonzero(array == NEWLINE)
    counts, sizes = (np.diff(each, prepend=0) for each in (np.searchsorted(opens, ends), ends))
    return Strings(array, kinds, opens, closes, outside, counts, sizes)


class Characters(NamedTuple):
    """The characters that are looked up one by one: where they begin, and their code points."""

    places: Array
    points: Array

    @classmethod
    def of(cls, strings: Strings) -> Characters:
        places = np.flatnonzero(strings.kinds == LEAD)
        array = strings.array
        first, second = array[places].astype(np.uint32), array[places + 1] & np.uint32(0x3F)
        third, fourth = (array[np.minimum(places + at, len(array) - 1)] & np.uint32(0x3F) for at in (2, 3))
        points = (first & 0x1F) << 6 | second
        is_three, is_four = (first >= 0xE0) & (first < 0xF0), first >= 0xF0
        points[is_three] = ((first & 0x0F) << 12 | second << 6 | third)[is_three]
        points[is_four] = ((first & 0x07) << 18 | second << 12 | third << 6 | fourth)[is_four]
        return cls(places, points)
