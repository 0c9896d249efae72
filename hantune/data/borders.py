"""Token ids of many texts at once, by table: exact for tokenizers of the SentencePiece kind, and without a loop.

A BPE token grows by merges, and the merge that first crosses the border between two characters joins a piece that ends
with the one to a piece that begins with the other. Where no merge does, no token ever crosses: the text falls apart
there into words that are encoded one by one and remembered. In Llama 2's vocabulary no merge touches a Han character,
so almost every word is one character, and its ids stand in a table by code point.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.uint32]
"""Code points of texts, and ``BORDER`` and controls between them."""
Array = NDArray[Any]
BORDER = 0x110000
"""No character: no token crosses it, and it has no ids. Controls follow it, each with the one id it was given."""
BLANK = "▁"
"""What SentencePiece writes for a blank, and puts in front of a text."""
LARGEST = 1 << 27
"""Bytes of the table of pairs; a vocabulary that needs more is left to the tokenizer."""
MOST_WORDS = 1 << 20
"""Words that are remembered before all are forgotten."""
UNKNOWN = -1
Prefix = Literal["always", "unless-there", "never"]


def gather(source: Array, begins: Array, counts: Array) -> Array:
    """The slices ``source[begin : begin + count]`` one after another."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    places = np.arange(total, dtype=np.int64)
    places += np.repeat(begins - (ends - counts), counts)
    return np.asarray(source[places])


class Borders:
    """One tokenizer as a table of characters, a table of pairs that may join, and the words met so far."""

    def __init__(
        self, junctions: Iterable[tuple[str, str]], bare: Any, controls: Sequence[int], prefix: Prefix = "never"
    ) -> None:
        """``junctions``: characters that a merge joins. ``bare``: the encoder that puts nothing before a text.

        ``controls``: the ids of the points behind ``BORDER``. ``prefix``: when ``opening`` is a ``▁``.
        """
        self.prefix = prefix
        pairs = np.array([(ord(left), ord(right)) for left, right in junctions], np.uint32).reshape(-1, 2)
        lefts, rights = np.unique(pairs[:, 0]), np.unique(pairs[:, 1])
        size = BORDER + 1 + len(controls)
        self._left, self._right = np.zeros(size, np.uint16), np.zeros(size, np.uint16)
        self._left[lefts] = np.arange(1, len(lefts) + 1)
        self._right[rights] = np.arange(1, len(rights) + 1)
        self._joins = np.zeros((len(lefts) + 1, len(rights) + 1), bool)
        self._joins[self._left[pairs[:, 0]], self._right[pairs[:, 1]]] = True
        for table in (self._left, self._right):  # a blank is written as ▁
            table[0x20] = table[ord(BLANK)]
        self.bare = bare
        self._controls = np.asarray(controls, np.int32)
        self._forget()

    def _forget(self) -> None:
        """Empty tables but for the controls."""
        num = len(self._controls)
        self._pool = np.concatenate([self._controls, np.zeros(1 << 16, np.int32)])
        self._used = num
        self._begin = np.zeros(len(self._left), np.int32)
        self._count = np.full(len(self._left), UNKNOWN, np.int32)
        self._count[BORDER] = 0
        self._count[BORDER + 1 :] = 1
        self._begin[BORDER + 1 :] = np.arange(num)
        self._words: dict[str, int] = {}
        self._word_begin = self._word_count = np.zeros(0, np.int32)

    def __getstate__(self) -> dict[str, Any]:
        """Without the encoder, which must be given again."""
        return vars(self) | {"bare": None}

    def opening(self, text: str) -> str:
        """What stands before a text that is encoded with the dummy prefix."""
        is_given = self.prefix == "unless-there" and text.startswith((" ", BLANK))
        return "" if self.prefix == "never" or is_given else BLANK

    def encode(self, points: Points) -> tuple[Array, Array]:
        """The ids (int32), and how many of them each point brings (a word's ids stand at its first character)."""
        if len(self._words) > MOST_WORDS:
            self._forget()
        joined = np.zeros(len(points), bool)
        left, right = self._left[points[:-1]], self._right[points[1:]]
        may = np.flatnonzero((left != 0) & (right != 0))
        joined[may + 1] = self._joins[left[may], right[may]]
        starts = np.flatnonzero(~joined)
        sizes = np.diff(starts, append=len(points))
        firsts = points[starts]
        is_word = sizes > 1
        self._learn_characters(firsts[~is_word])
        begins, counts = self._begin[firsts], self._count[firsts]
        if is_word.any():
            rows = self._rows_of(_texts(points, starts[is_word], sizes[is_word]))
            begins[is_word], counts[is_word] = self._word_begin[rows], self._word_count[rows]
        by_point = np.zeros(len(points), np.int32)
        by_point[starts] = counts
        return gather(self._pool, begins, counts), by_point

    def _learn_characters(self, points: Points) -> None:
        """Enter the characters that stand alone and were never met."""
        new = np.unique(points[self._count[points] == UNKNOWN])
        if len(new):
            self._begin[new], self._count[new] = self._store([chr(point) for point in new.tolist()])

    def _rows_of(self, words: list[str]) -> Array:
        """The row of each word, entering those that were never met."""
        rows = self._words
        new = [word for word in dict.fromkeys(words) if word not in rows]
        if new:
            begins, counts = self._store(new)
            rows.update(zip(new, range(len(rows), len(rows) + len(new)), strict=True))
            self._word_begin = np.concatenate([self._word_begin, begins])
            self._word_count = np.concatenate([self._word_count, counts])
        return np.fromiter(map(rows.__getitem__, words), np.int64, len(words))

    def _store(self, words: list[str]) -> tuple[Array, Array]:
        """Where the ids of new words begin in the pool, and how many they are."""
        ids = [encoding.ids for encoding in self.bare.encode_batch_fast(words, add_special_tokens=False)]
        counts = np.fromiter(map(len, ids), np.int32, len(ids))
        begins = (self._used + np.cumsum(counts) - counts).astype(np.int32)
        end = self._used + int(counts.sum())
        if end > len(self._pool):
            self._pool = np.concatenate([self._pool, np.zeros(max(end, len(self._pool)), np.int32)])
        self._pool[self._used : end] = [token for each in ids for token in each]
        self._used = end
        return begins, counts


def _texts(points: Points, starts: Array, sizes: Array) -> list[str]:
    """Slices of ``points`` as strings."""
    buffer = gather(points, starts, sizes + 1 - (starts + sizes == len(points)))
    buffer = np.append(buffer, 0)[: int(sizes.sum()) + len(sizes)]
    buffer[np.cumsum(sizes + 1) - 1] = 0
    return buffer.astype("<u4").tobytes().decode("utf-32-le").split("\0")[:-1]


def to_points(text: str) -> Points:
    """The code points of a text (uint32)."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def find_borders(plan: Mapping[str, Any], bare: Any, controls: Sequence[int]) -> Borders | None:
    """The tables of a tokenizer (its ``tokenizer.json`` as data), or None where it does not keep to what they need.

    Needed: BPE with a token for every byte that no merge touches; nothing done to the text but ``▁`` for blanks and in
    front; no added token but special ones, which are no tokens in a text.
    """
    model = plan["model"]
    is_plain = model["type"] == "BPE" and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    )
    if not is_plain or not (_is_normal(plan["normalizer"]) and _is_metaspace(plan["pre_tokenizer"])):
        return None
    of_bytes = {f"<0x{byte:02X}>" for byte in range(256)}
    if not (model.get("byte_fallback") and of_bytes <= model["vocab"].keys()):
        return None
    if not all(token["special"] for token in plan["added_tokens"]):
        return None
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    junctions = {(left[-1], right[0]) for left, right in merges}
    letters = [len(set(side)) + 1 for side in zip(*junctions, strict=True)] or [1, 1]
    touched = any(left in of_bytes or right in of_bytes for left, right in merges)
    if touched or any("\0" in pair for pair in junctions) or letters[0] * letters[1] > LARGEST or max(letters) > 65535:
        return None
    return Borders(junctions, bare, controls, _prefix(plan))


def _prefix(plan: Mapping[str, Any]) -> Prefix:
    """When the tokenizer puts a ``▁`` before a text."""
    if '"Prepend"' in json.dumps(plan["normalizer"]):
        return "always"
    splitter = plan["pre_tokenizer"]
    return "unless-there" if splitter and splitter["prepend_scheme"] != "never" else "never"


def _is_normal(node: Any) -> bool:
    """Whether a normalizer does nothing but write ``▁``."""
    if node is None:
        return True
    if node["type"] == "Sequence":
        return all(map(_is_normal, node["normalizers"]))
    if node["type"] == "Prepend":
        return bool(node["prepend"] == BLANK)
    return bool(node["type"] == "Replace" and node["pattern"] == {"String": " "} and node["content"] == BLANK)


def _is_metaspace(node: Any) -> bool:
    """Whether a pre-tokenizer splits at blanks at most."""
    return node is None or (node["type"] == "Metaspace" and node["replacement"] == BLANK)

