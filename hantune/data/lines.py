"""A block of LCCC lines as columns at once: what ``formats/lccc.py`` says, without a Python object per conversation.

    lines ─ one parse ─> utterances ─ joined, as code points ─> blanks of the segmentation taken out ─> texts, ids

A line that is not plainly a dialogue of segmented utterances is left out and named, to be read one by one.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from hantune.data.borders import to_points
from hantune.data.formats.common import CONTROL
from hantune.data.prepared import batch_of

Array = np.ndarray[Any, Any]
END = "\0"
"""Parts utterances; a line with this character in a text is read one by one."""
FIRST = 4
"""Lines that show whether a block is worth trying."""


class Dialogues(NamedTuple):
    """The dialogues of some lines."""

    lines: Array
    """The index of the line of each dialogue; the other lines are to be read one by one."""
    batch: pa.RecordBatch
    """``prepared.SCHEMA``, a row a dialogue."""


def _kinds() -> Array:
    """Per code point: 1 for the blank, 2 for what is odd (other blanks, control characters), 3 letters, 4 stops."""
    kinds = np.zeros(0x110000, np.uint8)
    kinds[[point for point in range(0x10000) if chr(point).isspace() or CONTROL.match(chr(point))]] = ODD
    kinds[ord(" ")] = BLANK
    kinds[[ord(letter) for letter in "0123456789"]] = LETTER
    kinds[ord("A") : ord("Z") + 1] = kinds[ord("a") : ord("z") + 1] = LETTER
    kinds[[ord(letter) for letter in ",.!?;:"]] = STOP
    kinds[0] = 0
    return kinds


BLANK, ODD, LETTER, STOP = 1, 2, 3, 4
KINDS = _kinds()
UNSURE, GONE = 0x110000, 0x110001


def read_lines(lines: Sequence[bytes], places: Sequence[str], max_turns: int | None = None) -> Dialogues | None:
    """The dialogues among ``lines`` (JSON, one a line); None where the block is of another kind.

    ``places``: the ``file:line`` of each.
    """
    if not all(line.startswith(b"[") for line in lines[:FIRST]):
        return None
    utterances = _parse(lines)
    flat, counts = list(chain.from_iterable(utterances)), np.fromiter(map(len, utterances), np.int64, len(utterances))
    if not flat:
        return None
    text = END.join(flat)
    texts, is_odd = _desegment(text)
    ends = np.cumsum(counts)
    kept = counts - counts % 2
    odd_before = np.concatenate([[0], np.cumsum(is_odd)])
    good = np.flatnonzero((counts > 1) & (odd_before[ends] == odd_before[ends - counts]))
    if max_turns:
        kept = np.minimum(kept, 2 * max_turns)
    chosen = _ranges((ends - counts)[good], kept[good])
    texts = texts if len(chosen) == len(texts) else [texts[number] for number in chosen.tolist()]
    offsets = np.concatenate([[0], np.cumsum(kept[good])])
    sources = [places[line] for line in good.tolist()]
    return Dialogues(good, _batch(texts, offsets, sources))


def _parse(lines: Sequence[bytes]) -> list[list[str]]:
    """The utterances of each line; none for a line that is not one list of texts.

    One parse for all where it can be: a string cannot run over a raw line end, and a list that begins in a line and
    ends in another would be in a list, so as many lists of texts as lines, each line beginning one, means one a line.
    """
    if all(line.startswith(b"[") for line in lines):
        try:
            values: list[list[str]] = orjson.loads(b"[" + b",\n".join(lines) + b"]")
            flat = list(chain.from_iterable(values))
            if len(values) == len(lines) and END.join(flat).count(END) == max(len(flat) - 1, 0):
                return values
        except (orjson.JSONDecodeError, TypeError):
            pass  # some line is another thing
    return [_parse_line(line) for line in lines]


def _parse_line(line: bytes) -> list[str]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return []
    is_plain = isinstance(value, list) and all(isinstance(item, str) and END not in item for item in value)
    return value if is_plain else []


def _desegment(text: str) -> tuple[list[str], Array]:
    """The utterances of ``text`` without the blanks of the segmentation, and which are odd (read them one by one).

    Odd: empty ones, blanks that are not single, at an edge, or no ``U+0020``, control characters.
    """
    points = to_points(text)
    kinds = KINDS[points]
    ends = np.flatnonzero(np.append(points == 0, True))
    starts = np.concatenate([[0], ends[:-1] + 1])
    blanks = np.flatnonzero(kinds == BLANK)
    before, after = kinds[blanks - 1], kinds[np.minimum(blanks + 1, len(kinds) - 1)]
    before[blanks == 0], after[blanks == len(kinds) - 1] = ODD, ODD
    at_edge = (points[blanks - 1] == 0) | (points[np.minimum(blanks + 1, len(kinds) - 1)] == 0)
    wrong = blanks[at_edge | (before == BLANK) | (before == ODD) | (after == ODD)]
    owner = np.searchsorted(ends, blanks)
    is_odd = starts == ends
    is_odd[np.searchsorted(ends, wrong)] = True
    is_odd[np.searchsorted(ends, np.flatnonzero(kinds == ODD))] = True
    num_blanks = np.bincount(owner, minlength=len(ends))
    is_by_letter = ends - starts == 2 * num_blanks + 1
    before_stop = kinds[np.maximum(blanks, 2) - 2]
    joins_words = (before == LETTER) | ((before == STOP) & (before_stop == LETTER))
    keep = np.ones(len(points), bool)
    keep[blanks[is_by_letter[owner] | ~(joins_words & (after == LETTER))]] = False
    return points[keep].tobytes().decode("utf-32-le").split(END), is_odd


def _ranges(starts: Array, counts: Array) -> Array:
    """``start .. start + count - 1`` one after another."""
    ends = np.cumsum(counts)
    places: Array = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
    return places


@functools.cache
def _normal_points() -> Array:
    """Per code point what NFKC and case folding make of it: one point, ``GONE``, or ``UNSURE``.

    Sure only where nothing before the character can change it: its decomposition begins with no combining character.
    """
    decomposed = (unicodedata.decomposition(chr(point)).split() for point in range(0x11_000))
    seconds = {int(parts[1], 16) for parts in decomposed if len(parts) == 2 and not parts[0].startswith("<")}
    jamo = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    table = np.full(0x110000, UNSURE, np.uint32)
    for point in chain(range(0x10000), range(0x1F300, 0x1FB00)):
        letter = chr(point)
        first = unicodedata.normalize("NFKD", letter)[0]
        result = unicodedata.normalize("NFKC", letter).casefold()
        if unicodedata.combining(first) or ord(first) in seconds | jamo or 0xD800 <= point < 0xE000:
            continue
        if len(result) == 1:
            table[point] = GONE if result.isspace() else ord(result)
    return table


def normal_texts(text: str) -> list[str]:
    """For each text that ``\\x02`` opens what ``split.content_id`` hashes: NFKC, case folded, without blanks."""
    text = text.replace("…", "...")  # its NFKC, and common
    points = to_points(text)
    mapped = _normal_points()[points]
    normal = mapped[mapped < UNSURE].tobytes().decode("utf-32-le").split("\x02")[1:]
    unsure = np.flatnonzero(mapped == UNSURE)
    rows = np.unique(np.searchsorted(np.flatnonzero(points == 2), unsure) - 1).tolist() if len(unsure) else []
    texts = text.split("\x02")[1:] if rows else []
    for row in rows:
        normal[row] = "".join(unicodedata.normalize("NFKC", texts[row]).casefold().split())
    return normal


def _batch(texts: list[str], offsets: Array, sources: list[str]) -> pa.RecordBatch:
    """Dialogues as a batch, with their content ids."""
    is_user = (np.arange(len(texts)) - np.repeat(offsets[:-1], np.diff(offsets))) % 2 == 0
    roles = np.where(is_user, "user", "assistant").tolist()
    openings = np.where(is_user, "\x01user\x01", "\x01assistant\x01").astype(object)
    openings[offsets[:-1]] = "\x02user\x01"
    joined = "".join(chain.from_iterable(zip(openings.tolist(), texts, strict=True)))
    normal = normal_texts(joined)
    ids = [blake2b(each.encode(), digest_size=16).hexdigest() for each in normal]
    return batch_of(offsets.tolist(), roles, texts, (~is_user).tolist(), sources, ids)
