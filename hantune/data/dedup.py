"""Conversations that are equal or nearly so: found by MinHash over character n-grams, in memory that does not grow
with their texts.

A signature is 64 numbers (256 bytes) on disk. Two texts whose n-grams overlap by a share J have equal numbers in a
share J of the places (Broder 1997), and agree in all four of some band with 1 - (1 - J^4)^16: 0.9998 at J = 0.8. The
bands are sorted one after another, so only one column is in memory. Checked against exact overlaps in the tests.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hantune.data.clean.pseudonyms import neutral
from hantune.data.split import content_id
from hantune.data.types import Conversation
from hantune.errors import RefusedError

Dedup = Literal["off", "exact", "near"]
"""What is left out: nothing, all but the first of equal conversations, also all but the first of similar ones."""
Indices = NDArray[np.int64]
Matrix = NDArray[np.uint32]
NGRAM, PLACES, ROWS, SEED = 3, 64, 4, 1
SIMILAR = 0.8
"""Share of equal n-grams from which two conversations count as the same in other words."""
BATCH = 4096
MOST_KEPT = 64
"""With how many kept conversations of its cluster each further one is compared."""
PAIRS_SHOWN = 10
SHOWN_CHARACTERS = 60


class Pair(NamedTuple):
    """Conversation ``one`` is left out for ``other``; ``similarity`` is the estimated share of equal n-grams."""

    one: int
    other: int
    similarity: float


def shingles(conversation: Conversation) -> list[str]:
    """The character n-grams of all messages; width, case and blanks aside."""
    text = "\x01".join(message.text for message in conversation.messages)
    normal = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return [normal[at : at + NGRAM] for at in range(max(1, len(normal) - NGRAM + 1))]


def signatures(texts: Sequence[list[str]]) -> Matrix:
    """One signature a row; shape ``[N, PLACES]``."""
    from rensa import RMinHash

    if not texts:
        return np.zeros((0, PLACES), np.uint32)
    return np.array(RMinHash.digests_from_token_sets(list(texts), PLACES, SEED), np.uint32)


@dataclass
class Signatures:
    """The signatures of a pass over the data, on disk until ``matrix`` is asked for."""

    path: Path
    _waiting: list[list[str]] = field(default_factory=list)
    count: int = 0

    def add(self, conversation: Conversation) -> None:
        """One more row."""
        self._waiting.append(shingles(conversation))
        self.count += 1
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        with self.path.open("ab") as file:
            file.write(signatures(self._waiting).tobytes())
        self._waiting.clear()

    def extend(self, rows: bytes) -> None:
        """The rows of a block that were made elsewhere."""
        with self.path.open("ab") as file:
            file.write(rows)
        self.count += len(rows) // (4 * PLACES)

    def matrix(self) -> Matrix:
        """All rows, mapped from disk."""
        self._flush()
        if not self.count:
            return signatures([])
        return np.memmap(self.path, np.uint32, mode="r", shape=(self.count, PLACES))

    def close(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def similarity(matrix: Matrix, left: Indices, right: Indices) -> NDArray[np.float64]:
    """The estimated share of equal n-grams of each pair of rows."""
    shares = [
        (matrix[left[at : at + BATCH]] == matrix[right[at : at + BATCH]]).mean(axis=1)
        for at in range(0, len(left), BATCH)
    ]
    return np.concatenate(shares) if shares else np.zeros(0)


def clusters(matrix: Matrix, rows: Indices) -> Indices:
    """For each conversation the first one of its cluster (itself where it is alone); only ``rows`` are compared."""
    parents = np.arange(len(matrix))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    for band in range(0, PLACES, ROWS):
        for left, right in _alike(matrix, rows, band):
            one, other = root(left), root(right)
            parents[max(one, other)] = min(one, other)
    return np.array([root(row) for row in range(len(matrix))], np.int64) if len(rows) else parents


def _alike(matrix: Matrix, rows: Indices, band: int) -> Iterator[tuple[int, int]]:
    """Pairs of rows that agree in a band and are similar indeed; of many, each with its neighbour and the first."""
    keys = band_keys(matrix, rows, band)
    order = np.argsort(keys, kind="stable")
    ordered, places = keys[order], rows[order]
    begins = np.r_[True, ordered[1:] != ordered[:-1]] if len(ordered) else np.zeros(0, bool)
    first = places[np.flatnonzero(begins)][np.cumsum(begins) - 1] if len(ordered) else places
    after = np.flatnonzero(~begins)
    left = np.r_[places[after - 1], first[after]]
    right = np.r_[places[after], places[after]]
    is_alike = similarity(matrix, left, right) >= SIMILAR
    yield from zip(left[is_alike].tolist(), right[is_alike].tolist(), strict=True)


def band_keys(matrix: Matrix, rows: Indices, band: int) -> NDArray[np.uint64]:
    """The four numbers of a band as one of 64 bits, for each row."""
    keys = np.zeros(len(rows), np.uint64)
    for place in range(band, band + ROWS):
        keys = (keys ^ matrix[rows, place].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def near_duplicates(matrix: Matrix, labels: Indices, rows: Indices) -> list[Pair]:
    """Which of ``rows`` are left out for an earlier one of their cluster; earlier in the order of ``rows``."""
    pairs: list[Pair] = []
    kept: dict[int, list[int]] = {}
    sizes = np.bincount(labels[rows], minlength=len(labels)) if len(rows) else np.zeros(0)
    for row in rows[sizes[labels[rows]] > 1].tolist() if len(rows) else ():
        mine = kept.setdefault(int(labels[row]), [])
        shares = (matrix[mine] == matrix[row]).mean(axis=1) if mine else np.zeros(1)
        best = int(shares.argmax())
        if shares[best] >= SIMILAR:
            pairs.append(Pair(row, mine[best], round(float(shares[best]), 3)))
        elif len(mine) < MOST_KEPT:
            mine.append(row)
    return pairs


def exact_duplicates(draws: NDArray[np.uint64], rows: Indices) -> list[Pair]:
    """Which of ``rows`` are left out for an earlier equal one."""
    _, firsts, places = np.unique(draws[rows], return_index=True, return_inverse=True)
    other = rows[firsts[places]]
    again = other != rows
    return [Pair(one, first, 1.0) for one, first in zip(rows[again].tolist(), other[again].tolist(), strict=True)]


@dataclass
class Overlap:
    """What two sets of conversations share: how many of the second are in the first, and some pairs."""

    compared: int = 0
    held_out: int = 0
    exact: int = 0
    near: int = 0
    pairs: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return vars(self)


def overlap(ours: Iterable[Conversation], theirs: Iterable[Conversation]) -> Overlap:
    """How many of ``ours`` are, exactly or nearly, among ``theirs`` (the held-out set, which is kept in memory).

    Private values and stand-ins for them are no difference.
    """
    held = list(map(neutral, theirs))
    ids = {content_id(conversation): place for place, conversation in reversed(list(enumerate(held)))}
    matrix = np.concatenate(
        [signatures([shingles(each) for each in batch]) for batch in _batches(held)] or [signatures([])]
    )
    buckets = _buckets(matrix)
    report = Overlap(held_out=len(held))
    for batch in _batches(map(neutral, ours)):
        rows = signatures([shingles(conversation) for conversation in batch])
        for conversation, row in zip(batch, rows, strict=True):
            report.compared += 1
            place = ids.get(content_id(conversation))
            share = 1.0
            if place is None:
                place, share = _nearest(row, matrix, buckets)
            if place is None:
                continue
            report.exact += share == 1.0 and content_id(held[place]) == content_id(conversation)
            report.near = report.near + 1
            if len(report.pairs) < PAIRS_SHOWN:
                report.pairs.append(_shown(conversation, held[place], share))
    report.near -= report.exact
    return report


def refuse_leak(ours: Iterable[Conversation], theirs: Iterable[Conversation], place: str) -> Overlap:
    """What two sets share, if that is nothing.

    Raises: RefusedError ``split.leak``.
    """
    found = overlap(ours, theirs)
    if not found.pairs:
        return found
    first = found.pairs[0]
    raise RefusedError(
        "split.leak",
        f"训练数据里有 {found.exact} 段和那份数据相同, {found.near} 段很像: 在它上面的成绩会好得不真实. "
        f"例: {first['here']} 和 {first['there']} (相似 {first['similarity']:.2f})",
        place=place,
        hint="当作验证数据重新整理, 重叠的就从训练里去掉: hantune data prepare ... --val 那份数据 --dedup near",
    )


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    stream = iter(conversations)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _buckets(matrix: Matrix) -> list[dict[int, list[int]]]:
    """For each band, its key -> the rows that have it."""
    rows = np.arange(len(matrix))
    found: list[dict[int, list[int]]] = []
    for band in range(0, PLACES, ROWS):
        bucket: dict[int, list[int]] = {}
        for row, key in enumerate(band_keys(matrix, rows, band).tolist()):
            bucket.setdefault(key, []).append(row)
        found.append(bucket)
    return found


def _nearest(row: NDArray[np.uint32], matrix: Matrix, buckets: list[dict[int, list[int]]]) -> tuple[int | None, float]:
    """The most similar row of ``matrix`` and its similarity; None where none is similar."""
    alone = row[None, :]
    places = {
        place
        for band, bucket in zip(range(0, PLACES, ROWS), buckets, strict=True)
        for place in bucket.get(int(band_keys(alone, np.zeros(1, np.int64), band)[0]), ())[:MOST_KEPT]
    }
    if not places:
        return None, 0.0
    candidates = np.array(sorted(places))
    shares = (matrix[candidates] == row).mean(axis=1)
    best = int(shares.argmax())
    return (int(candidates[best]), round(float(shares[best]), 3)) if shares[best] >= SIMILAR else (None, 0.0)


def _shown(one: Conversation, other: Conversation, share: float) -> dict[str, Any]:
    """A pair for people: where both stand and how they begin."""
    texts = [each.messages[-1].text[:SHOWN_CHARACTERS] for each in (one, other)]
    return {"here": one.source, "there": other.source, "similarity": share, "texts": texts}
