"""The check of a prepared part, by batches: most samples are proven good by their shape and their ids alone.

What a template puts around messages hangs on the conversation's shape (its roles and learn flags) and on nothing else,
except for the texts that ``Template.turns_on`` and ``EDGES`` speak of. So the rules about the rendering are held
against the first conversations of each shape and every one with such texts; the rules about ids, against all ids of a
batch at once. Whatever shows anything odd is looked at as ``check_data`` does, which counts it and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hantune.data.bulk import EDGES, LEARNED, ROLES, Block, Bulk
from hantune.data.check import Checking, CheckReport
from hantune.data.counts import Array
from hantune.data.prepared import Prepared, to_conversation
from hantune.data.tally import Texts, answers_of
from hantune.data.templates.base import Template
from hantune.data.tokens import Encoder
from hantune.data.types import Message
from hantune.log import console

EXCHANGE = (Message(role="user", text="a"), Message(role="assistant", text="a"))
"""What every template can show."""
LOOKED_AT = 3
"""How many conversations of each shape are looked at."""
ENDLESS = 1 << 40
"""A ``max_tokens`` that cuts nothing."""
OF_ONE_TEXT = "mask.unknown-token"
"""The one rule that a text breaks and not its shape."""


@dataclass
class Shape:
    """What is known of conversations with the same roles and learn flags."""

    seen: int = 0
    is_good: bool | None = None
    """None until one of them was tried."""
    answers: int = 0
    """Learned answers."""


def check_prepared(prepared: Prepared, encoder: Encoder, template: Template, **settings: Any) -> CheckReport:
    """What ``check_data`` says of the training part.

    Raises: what ``check_data`` raises.
    """
    glance = Glance(Checking(encoder, template, **settings))
    with console.progress("检查", prepared.count("train"), unit="段") as bar:
        for batch in prepared.batches("train"):
            glance.check(batch)
            bar.advance(batch.num_rows)
    return glance.checking.end()


class Glance:
    """Batches of ``prepared.SCHEMA`` in; what is odd goes on to ``checking``."""

    def __init__(self, checking: Checking) -> None:
        self.checking = checking
        self._shapes: dict[bytes, Shape] = {}
        self._bulk, self._stops = None, np.zeros(0, np.int64)
        encoder, template = checking.encoder, checking.template
        if encoder.borders is not None and template.turns_on is not None:
            self._stops = np.array(encoder.stop_ids(template.render(EXCHANGE, encoder.marks).stops), np.int64)
        if len(self._stops):
            self._bulk = Bulk(template, encoder, ENDLESS, checking.max_turns)

    def check(self, batch: pa.RecordBatch) -> None:
        """Hold a batch against the rules."""
        is_odd = np.ones(batch.num_rows, bool)
        if self._bulk is not None:
            texts = Texts.of(batch)
            is_odd = odd_rows(texts, self.checking.template.turns_on or ())
            shapes = [self._shapes.setdefault(shape, Shape()) for shape in shapes_of(batch, texts)]
            for row in np.flatnonzero(~is_odd).tolist():
                if shapes[row].is_good is None:
                    self._try(shapes[row], batch.slice(row, 1))
            for row, shape in enumerate(shapes):
                shape.seen += 1
                is_odd[row] |= shape.seen <= LOOKED_AT or not shape.is_good
            rows = np.flatnonzero(~is_odd)
            is_odd[rows] = self._passes(batch.take(pa.array(rows)), np.array([shapes[row].answers for row in rows]))
        self.checking.look([to_conversation(row) for row in batch.filter(pa.array(is_odd)).to_pylist()])

    def _try(self, shape: Shape, row: pa.RecordBatch) -> None:
        """Hold the rules about the rendering against one of a shape."""
        checking = self.checking
        trial = Checking(checking.encoder, checking.template, max_tokens=ENDLESS, max_turns=checking.max_turns)
        shape.answers = trial.look([to_conversation(row.to_pylist()[0])])[0].answers
        shape.is_good = all(finding.code == OF_ONE_TEXT for finding in trial.findings.all)

    def _passes(self, batch: pa.RecordBatch, answers: Array) -> Array:
        """Which rows of a batch, all of good shapes, must be looked at; the others enter the totals."""
        if self._bulk is None or not batch.num_rows:
            return np.zeros(batch.num_rows, bool)
        block = self._bulk.encode(batch)
        if block.dropped:
            return np.ones(batch.num_rows, bool)
        is_odd, report = self._odd_ids(block), self.checking.report
        report.samples += int((~is_odd).sum())
        report.kept += int((~is_odd).sum())
        report.answers += int(answers[~is_odd].sum())
        report.tokens += int(block.lengths[~is_odd].sum())
        report.learned += int(block.mask[np.repeat(~is_odd, block.lengths)].sum())
        return is_odd

    def _odd_ids(self, block: Block) -> Array:
        """Which examples are too long, end an answer without a stop, learn the pad token or hold unknown ones."""
        encoder, ends = self.checking.encoder, np.cumsum(block.lengths)
        is_odd = np.asarray(block.lengths > self.checking.max_tokens)
        lasts = answers_of(block.mask, block.lengths).lasts
        places = [lasts[~np.isin(block.ids[lasts], self._stops)]]
        if encoder.has_pad:
            places.append(np.flatnonzero((block.ids == encoder.pad_id) & (block.mask != 0)))
        if encoder.unknown_id is not None:
            places.append(np.flatnonzero(block.ids == encoder.unknown_id))
        is_odd[np.searchsorted(ends, np.concatenate(places), side="right")] = True
        return is_odd


def shapes_of(batch: pa.RecordBatch, texts: Texts) -> list[bytes]:
    """Of each row the roles and learn flags of its messages, a byte a message."""
    messages = batch.column("messages").flatten()
    roles = pc.index_in(messages.field("role"), pa.array(ROLES)).to_numpy(zero_copy_only=False)
    learns = messages.field("learn").to_numpy(zero_copy_only=False)
    codes = (roles + LEARNED * learns).astype(np.uint8).tobytes()
    offsets = texts.offsets.tolist()
    return [codes[start:end] for start, end in zip(offsets, offsets[1:], strict=False)]


def odd_rows(texts: Texts, turns_on: Sequence[str]) -> Array:
    """Which rows have a text that may change what the template puts around it."""
    ends = np.cumsum(texts.sizes)
    is_odd = texts.sizes == 0
    some = np.flatnonzero(~is_odd)
    is_odd[some] = np.isin(texts.points[(ends - texts.sizes)[some]], EDGES) | np.isin(
        texts.points[ends[some] - 1], EDGES
    )
    for text in turns_on:
        is_odd |= pc.match_substring(texts.contents, text).to_numpy(zero_copy_only=False)
    return texts.by_conversation(is_odd) > 0
