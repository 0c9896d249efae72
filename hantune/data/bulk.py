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

from hantune.data.borders import BLANK, BORDER, Borders, to_points
from hantune.data.fit import fit_many, trim_turns
from hantune.data.prepared import to_conversation
from hantune.data.templates.base import Template
from hantune.data.tokens import WITH_PREFIX, Encoder
from hantune.data.types import Message, Role
from hantune.data.words import Array, Points, gather
from hantune.errors import HantuneError

ROLES: tuple[Role, ...] = ("system", "user", "assistant")
LEARNED = 4
"""The bit of a message's code that says it is learned; below it stands the role."""
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
    """How the conversations of one shape are written: pieces that are constant points or messages."""

    constants: list[Points]
    messages: Array
    """The numbers of messages."""
    is_message: Array
    """By piece, whether it is the next of ``messages`` or of ``constants``."""
    learned: Array
    """By piece (uint8)."""


class _Part(NamedTuple):
    """Examples of some rows; ``lengths``, ``characters`` and ``cut`` go with ``rows``."""

    rows: Array
    ids: Array
    mask: Array
    lengths: Array
    characters: Array
    cut: Array


@dataclass
class Bulk:
    """Turns batches of one part into blocks; ``max_tokens`` and ``max_turns`` as in ``fit_many``."""

    template: Template
    encoder: Encoder
    max_tokens: int
    max_turns: int | None = None
    _outlines: list[Outline] = field(default_factory=list)
    _kinds: dict[bytes, int] = field(default_factory=dict)
    """Shape -> the number of its outline, -1 where it has none."""

    def encode(self, batch: pa.RecordBatch) -> Block:
        """The examples of a batch of ``prepared.SCHEMA``, in its order.

        Raises: what ``Template.render`` raises.
        """
        turns_on = self.template.turns_on
        borders = None if turns_on is None else self.encoder.borders_for(batch.get_total_buffer_size() // 3)
        small = self.encoder.vocab_size <= 1 << 16
        if borders is None or turns_on is None:
            return _join(batch, [self._one_by_one(batch, np.arange(batch.num_rows))], small)
        texts = _Texts.of(batch, turns_on)
        shapes = texts.shapes()
        for shape in set(shapes).difference(self._kinds):
            outline = self._make_outline(shape, borders)
            self._kinds[shape] = -1 if outline is None else len(self._outlines)
            self._outlines += [outline] if outline else []
        kinds = np.fromiter(map(self._kinds.__getitem__, shapes), np.int64, len(shapes))
        rows = np.flatnonzero((kinds >= 0) & ~texts.is_odd)
        fast = _encode(texts, rows, kinds[rows], self._outlines, borders)
        others = np.ones(batch.num_rows, bool)
        others[rows] = fast.lengths > self.max_tokens
        return _join(batch, [_without(fast, others), self._one_by_one(batch, np.flatnonzero(others))], small)

    def _make_outline(self, shape: bytes, borders: Borders) -> Outline | None:
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
        return _outline_of(self.encoder.pieces(rendered), self.encoder, borders)

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
    offsets: Array
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
        return cls(points, sizes, codes, offsets, np.diff(odd_before) > 0)

    def shapes(self) -> list[bytes]:
        """The codes of each row's messages."""
        ends = self.offsets.tolist()
        return [self.codes[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def _bytes_of(strings: Any) -> tuple[bytes, Array]:
    """The UTF-8 bytes of an Arrow array of strings, and how many each has."""
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return (data[int(ends[0]) : int(ends[-1])].to_pybytes() if data is not None else b""), np.diff(ends)


def _outline_of(pieces: Sequence[tuple[int, str | int, bool]], encoder: Encoder, borders: Borders) -> Outline | None:
    """The outline that a rendering with placeholders shows; None where more than a message is learned of an answer."""
    found: list[tuple[list[int] | int, bool]] = []

    def add(points: list[int], learn: bool) -> None:
        if found and isinstance(found[-1][0], list) and found[-1][1] == learn:
            found[-1][0].extend(points)
        elif points:
            found.append((points, learn))

    is_text_before = True
    for which, text, learn in pieces:
        if isinstance(text, int):
            add([encoder.control_points[text]], learn)
            is_text_before = False
            continue
        add([BORDER] * is_text_before, learn)
        opening = borders.opening(text) if which == WITH_PREFIX else ""
        words = re.split(f"([{chr(PLACEHOLDER)}-{chr(PLACEHOLDER + LONGEST_SHAPE)}])", opening + text)
        if learn and (len(words) != 3 or words[0].strip(BLANK).strip() or words[2].strip()):
            return None
        for index, word in enumerate(words):
            if index % 2:
                found.append((ord(word) - PLACEHOLDER, learn))
            else:
                add(to_points(word).tolist(), learn)
        is_text_before = True
    if not any(learn for piece, learn in found if isinstance(piece, int)):
        return None
    return Outline(
        constants=[borders.fold(np.array(piece, np.uint32)) for piece, _ in found if isinstance(piece, list)],
        messages=np.array([piece for piece, _ in found if isinstance(piece, int)]),
        is_message=np.array([isinstance(piece, int) for piece, _ in found]),
        learned=np.array([learn for _, learn in found], np.uint8),
    )


def _encode(texts: _Texts, rows: Array, kinds: Array, outlines: Sequence[Outline], borders: Borders) -> _Part:
    """The examples of ``rows``, each written by the outline of its kind."""
    firsts = texts.offsets[rows]
    starts = np.cumsum(texts.sizes) - texts.sizes
    num_pieces = np.array([len(outline.learned) for outline in outlines], np.int64)[kinds]
    ends = np.cumsum(num_pieces)
    begins, sizes, learned = (np.zeros(int(num_pieces.sum()), kind) for kind in (np.int64, np.int64, np.uint8))
    characters = np.zeros(len(rows), np.int64)
    pool, pooled = [texts.points], len(texts.points)
    for kind in np.unique(kinds).tolist():
        constants, messages, is_message, learns = outlines[kind]
        mine = np.flatnonzero(kinds == kind)
        numbers = firsts[mine, None] + messages
        places = (ends - num_pieces)[mine, None] + np.arange(len(learns))
        lengths = np.array([len(constant) for constant in constants])
        learned[places] = learns
        begins[places[:, ~is_message]] = pooled + np.cumsum(lengths) - lengths
        sizes[places[:, ~is_message]] = lengths
        begins[places[:, is_message]] = starts[numbers]
        sizes[places[:, is_message]] = texts.sizes[numbers]
        characters[mine] = texts.sizes[numbers] @ learns[is_message]
        pool += constants
        pooled += int(lengths.sum())
    ids, by_point = borders.encode(gather(np.concatenate(pool), begins, sizes))
    token_ends = np.concatenate([[0], np.cumsum(by_point)])[np.cumsum(sizes)]
    mask = np.repeat(learned, np.diff(token_ends, prepend=0))
    lengths = np.diff(token_ends[ends - 1], prepend=0)
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
