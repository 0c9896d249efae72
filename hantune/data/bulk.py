"""Rows of a prepared part to token arrays at once: what ``fit_many`` says, without a Python object per conversation.

    rows of one shape (roles, learn flags) ─ rendered once with placeholders ─> outline: constants and messages in turn
    outlines + code points of all texts ─ one gather ─> stream of points ─ Borders ─> ids, mask

Exact for templates that only put constants around the messages (``Template.turns_on``) and tokenizers with
``Borders``. Rows it does not hold for go through ``fit_many``: texts with blanks around them, conversations longer
than ``max_tokens``, every row where the template or the tokenizer is of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hantune.data.borders import BLANK, BORDER, Borders, Points, gather, to_points
from hantune.data.fit import fit_many, trim_turns
from hantune.data.prepared import to_conversation
from hantune.data.templates.base import Template
from hantune.data.tokens import WITH_PREFIX, Encoder
from hantune.data.types import Message, Role
from hantune.errors import HantuneError

Array = np.ndarray[Any, Any]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
LEARNED = 4
"""The bit of a message's code that says it is learned; below it stands the role."""
LEARN_BIT = np.uint32(1 << 31)
"""Marks a point whose tokens are learned."""
PLACEHOLDER = 0xF0000
"""Message i is the private character ``PLACEHOLDER + i`` in the rendering that an outline is read from."""
LONGEST_SHAPE = 256
"""Messages beyond which no outline is made."""
EDGES = np.array([ord(BLANK), *(point for point in range(0x3001) if chr(point).isspace())], np.uint32)
"""Characters that may vanish or change their neighbours at the edge of a text."""


class Block(NamedTuple):
    """Examples as columns: ``ids`` and ``mask`` run through all of them, the others hold one value an example."""

    ids: Array
    mask: Array
    lengths: Array
    characters: Array
    cut: Array
    sources: bytes
    source_lengths: Array
    dropped: int
    """Conversations of which nothing learned was left."""


class Outline(NamedTuple):
    """How the conversations of one shape are written: ``constants[0]``, ``messages[0]``, ``constants[1]`` ..."""

    constants: list[Points]
    messages: list[int]
    learned: list[bool]
    """Which of ``messages`` are learned."""


class _Part(NamedTuple):
    """Examples of some rows; ``lengths``, ``characters`` and ``cut`` go with ``rows``."""

    rows: Array
    ids: Array
    mask: Array
    lengths: Array
    characters: Array
    cut: Array


@dataclass(slots=True)
class Bulk:
    """Turns batches of one part into blocks; ``max_tokens`` and ``max_turns`` as in ``fit_many``."""

    template: Template
    encoder: Encoder
    max_tokens: int
    max_turns: int | None = None
    _outlines: dict[bytes, Outline | None] = field(default_factory=dict)

    def encode(self, batch: pa.RecordBatch) -> Block:
        """The examples of a batch of ``prepared.SCHEMA``, in its order.

        Raises: what ``Template.render`` raises.
        """
        borders, turns_on = self.encoder.borders, self.template.turns_on
        small = self.encoder.vocab_size <= 1 << 16
        if borders is None or turns_on is None:
            return _join(batch, [self._one_by_one(batch, np.arange(batch.num_rows))], small)
        texts = _Texts.of(batch, turns_on)
        outlines = [None if is_odd else self._outline(shape) for shape, is_odd in texts.shapes()]
        rows = np.flatnonzero([outline is not None for outline in outlines])
        fast = _encode(texts, rows, [each for each in outlines if each is not None], borders)
        others = np.ones(batch.num_rows, bool)
        others[fast.rows] = fast.lengths > self.max_tokens
        return _join(batch, [_without(fast, others), self._one_by_one(batch, np.flatnonzero(others))], small)

    def _outline(self, shape: bytes) -> Outline | None:
        """The outline of a shape, made once."""
        if shape not in self._outlines:
            self._outlines[shape] = self._make_outline(shape)
        return self._outlines[shape]

    def _make_outline(self, shape: bytes) -> Outline | None:
        """None where the template does not take the shape, or does not write it as constants and messages."""
        if len(shape) > LONGEST_SHAPE:
            return None
        messages = [
            Message(role=ROLES[code % LEARNED], text=chr(PLACEHOLDER + number), learn=bool(code & LEARNED))
            for number, code in enumerate(shape)
        ]
        try:
            rendered = self.template.render(trim_turns(messages, self.max_turns), self.encoder.marks)
        except HantuneError:  # it is raised again with its place, one by one
            return None
        return _outline_of(self.encoder.pieces(rendered), self.encoder)

    def _one_by_one(self, batch: pa.RecordBatch, rows: Array) -> _Part:
        """The examples of some rows through ``fit_many``."""
        conversations = [to_conversation(row) for row in batch.take(pa.array(rows)).to_pylist()]
        fitted = fit_many(
            conversations, self.template, self.encoder, max_tokens=self.max_tokens, max_turns=self.max_turns
        )
        kept = [(row, each, each.example) for row, each in zip(rows.tolist(), fitted, strict=True) if each.example]
        return _Part(
            rows=np.array([row for row, _, _ in kept], np.int64),
            ids=np.array([token for _, _, example in kept for token in example.ids], np.int32),
            mask=np.array([learn for _, _, example in kept for learn in example.mask], np.uint8),
            lengths=np.array([len(example.ids) for _, _, example in kept], np.int64),
            characters=np.array([each.characters for _, each, _ in kept], np.int64),
            cut=np.array([example.is_cut for _, _, example in kept], np.uint8),
        )


class _Texts(NamedTuple):
    """The messages of a batch as flat arrays: message m of row r is number ``offsets[r] + m``."""

    points: Points
    sizes: Array
    codes: bytes
    """Per message its role and, in the bit ``LEARNED``, whether it is learned."""
    offsets: list[int]
    is_odd: Array
    """Per row: a text is empty, has an edge that may vanish, or holds what the template turns on."""

    @classmethod
    def of(cls, batch: pa.RecordBatch, turns_on: Sequence[str]) -> _Texts:
        column = batch.column("messages")
        messages = column.flatten()
        offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
        contents = messages.field("content")
        points = to_points(_bytes_of(contents)[0].decode())
        sizes = pc.utf8_length(contents).to_numpy().astype(np.int64)
        ends = np.cumsum(sizes)
        is_odd = sizes == 0
        some = np.flatnonzero(~is_odd)
        is_odd[some] = np.isin(points[(ends - sizes)[some]], EDGES) | np.isin(points[ends[some] - 1], EDGES)
        for text in turns_on:
            is_odd |= pc.match_substring(contents, text).to_numpy(zero_copy_only=False)
        odd_before = np.concatenate([[0], np.cumsum(is_odd)])[offsets]
        roles = pc.index_in(messages.field("role"), pa.array(ROLES)).to_numpy(zero_copy_only=False)
        learns = messages.field("learn").to_numpy(zero_copy_only=False)
        codes = (roles + LEARNED * learns).astype(np.uint8).tobytes()
        return cls(points, sizes, codes, offsets.tolist(), np.diff(odd_before) > 0)

    def shapes(self) -> list[tuple[bytes, bool]]:
        """The codes of each row's messages, and whether the row is odd."""
        spans = zip(self.offsets, self.offsets[1:], self.is_odd.tolist(), strict=False)
        return [(self.codes[start:end], is_odd) for start, end, is_odd in spans]


def _bytes_of(strings: Any) -> tuple[bytes, Array]:
    """The UTF-8 bytes of an Arrow array of strings, and how many each has."""
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return (data[int(ends[0]) : int(ends[-1])].to_pybytes() if data is not None else b""), np.diff(ends)


def _outline_of(pieces: Sequence[tuple[int, str | int, bool]], encoder: Encoder) -> Outline | None:
    """The outline that a rendering with placeholders shows; None where more than a message is learned of an answer."""
    outline = Outline([], [], [])
    waiting: list[int] = []
    is_text_before = True
    for which, text, learn in pieces:
        bit = int(LEARN_BIT) if learn else 0
        if isinstance(text, int):
            waiting.append(encoder.control_points[text] | bit)
            is_text_before = False
            continue
        opening = encoder.borders.opening(text) if encoder.borders and which == WITH_PREFIX else ""
        waiting += [BORDER] * is_text_before
        words = re.split(f"([{chr(PLACEHOLDER)}-{chr(PLACEHOLDER + LONGEST_SHAPE)}])", opening + text)
        if learn and (len(words) != 3 or words[0].strip(BLANK).strip() or words[2].strip()):
            return None
        for index, word in enumerate(words):
            if index % 2:
                outline.constants.append(np.array(waiting, np.uint32))
                outline.messages.append(ord(word) - PLACEHOLDER)
                outline.learned.append(learn)
                waiting = []
            else:
                waiting += [ord(letter) | bit for letter in word]
        is_text_before = True
    outline.constants.append(np.array(waiting, np.uint32))
    return outline if any(outline.learned) else None


def _encode(texts: _Texts, rows: Array, outlines: Sequence[Outline], borders: Borders) -> _Part:
    """The examples of ``rows``, each written by its outline."""
    firsts = np.asarray(texts.offsets)[rows]
    starts = np.cumsum(texts.sizes) - texts.sizes
    kinds = {id(outline): outline for outline in outlines}
    kind_of = np.array([id(outline) for outline in outlines], np.int64)
    num_pieces = np.array([2 * len(outline.messages) + 1 for outline in outlines], np.int64)
    piece_starts = np.cumsum(num_pieces) - num_pieces
    begins, sizes, bits = (np.zeros(int(num_pieces.sum()), kind) for kind in (np.int64, np.int64, np.uint32))
    characters = np.zeros(len(rows), np.int64)
    pool = [texts.points]
    pooled = len(texts.points)
    for kind, outline in kinds.items():
        mine = np.flatnonzero(kind_of == kind)
        numbers = firsts[mine, None] + outline.messages
        places = piece_starts[mine, None] + np.arange(2 * len(outline.messages) + 1)
        lengths = np.array([len(constant) for constant in outline.constants])
        begins[places[:, ::2]] = pooled + np.cumsum(lengths) - lengths
        sizes[places[:, ::2]] = lengths
        begins[places[:, 1::2]] = starts[numbers]
        sizes[places[:, 1::2]] = texts.sizes[numbers]
        bits[places[:, 1::2]] = np.where(outline.learned, LEARN_BIT, np.uint32(0))
        characters[mine] = texts.sizes[numbers] @ np.array(outline.learned, np.int64)
        pool += outline.constants
        pooled += int(lengths.sum())
    stream = gather(np.concatenate(pool), begins, sizes) | np.repeat(bits, sizes)
    ids, by_point = borders.encode(stream & ~LEARN_BIT)
    mask = np.repeat((stream >> 31).astype(np.uint8), by_point)
    piece_ends = np.cumsum(sizes)[np.cumsum(num_pieces) - 1] if len(rows) else np.zeros(0, np.int64)
    lengths = np.diff(np.concatenate([[0], np.cumsum(by_point)])[piece_ends], prepend=0)
    return _Part(rows, ids, mask, lengths, characters, np.zeros(len(rows), np.uint8))


def _without(part: _Part, others: Array) -> _Part:
    """The examples of a part but for the rows in ``others``."""
    kept = ~others[part.rows]
    if kept.all():
        return part
    tokens = np.repeat(kept, part.lengths)
    return _Part(
        part.rows[kept], part.ids[tokens], part.mask[tokens], part.lengths[kept], part.characters[kept], part.cut[kept]
    )


def _join(batch: pa.RecordBatch, parts: Sequence[_Part], small: bool) -> Block:
    """The examples of several parts in the order of their rows, with their sources; ``small``: two bytes hold an id."""
    whole = parts[0] if len(parts) == 1 or not len(parts[1].rows) else _merge(parts)
    taken = batch.column("source")
    if len(whole.rows) < batch.num_rows:
        taken = taken.take(pa.array(whole.rows))
    sources, source_lengths = _bytes_of(taken)
    dropped = batch.num_rows - len(whole.rows)
    ids = whole.ids.astype(np.uint16) if small else whole.ids
    return Block(ids, *whole[2:], sources=sources, source_lengths=source_lengths, dropped=dropped)


def _merge(parts: Sequence[_Part]) -> _Part:
    joined = _Part(*map(np.concatenate, zip(*parts, strict=True)))
    order = np.argsort(joined.rows)
    starts, lengths = (np.cumsum(joined.lengths) - joined.lengths)[order], joined.lengths[order]
    return _Part(
        joined.rows[order],
        gather(joined.ids, starts, lengths),
        gather(joined.mask, starts, lengths),
        lengths,
        joined.characters[order],
        joined.cut[order],
    )
