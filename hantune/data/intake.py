"""The one pass over the sources: records in, conversations to a spool on disk, rejects to their file, tallies kept.

Nothing is held in memory but a few bytes per conversation (its draw, its part, the number of its record); the split
and the sampling need all draws before the first row can be written, so ``decide`` and ``write_parts`` come after.
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from hantune.data.container import Part
from hantune.data.formats import Detection, detect, get_format
from hantune.data.prepared import ROWS_PER_GROUP, SCHEMA, Columns, PartWriter, to_conversation
from hantune.data.sources import RECORD_CHARACTERS, SourceFile, read_parts
from hantune.data.split import Mask, choose_sample, choose_val, content_id, draw
from hantune.data.types import Conversation, Reject, Row
from hantune.errors import DataError
from hantune.log import console

ROWS_TO_DETECT = 50
FREE, VAL = 0, 1
KEPT, SAMPLED_OUT, IN_VAL = 0, 1, 2
FATE_REASONS = {SAMPLED_OUT: "sampled-out", IN_VAL: "split.in-val"}
Fates = NDArray[np.uint8]
Read = Callable[[Row], Iterator[Conversation | Reject]]


@dataclass
class Tally:
    """What became of the records of one source."""

    source: SourceFile
    is_val: bool
    format: str = ""
    why: str = ""
    read: int = 0
    first_record: int = 0
    has_val: bool = False
    kept: int = 0


@dataclass
class Intake:
    """The state of the pass. One entry per conversation in ``draws``, ``parts``, ``records``."""

    folder: Path
    seed: int
    max_turns: int | None = None
    strict: bool = False
    tallies: list[Tally] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    first_places: dict[str, str] = field(default_factory=dict)
    draws: array[int] = field(default_factory=lambda: array("Q"))
    parts: bytearray = field(default_factory=bytearray)
    records: array[int] = field(default_factory=lambda: array("Q"))
    read: int = 0

    @property
    def spool(self) -> Path:
        return self.folder / "spool.arrow"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.jsonl"

    def run(self, files: Sequence[tuple[SourceFile, bool]], format: str | None, has_val: bool) -> None:
        """Read all files: (file, is it a ``--val`` one). ``has_val``: ``--val`` was given, nothing else is held out.

        Raises: DataError of the sources; with ``strict`` the first reject as a DataError of its own code.
        """
        columns = Columns()
        with (
            pa.OSFile(str(self.spool), "wb") as sink,
            pa.ipc.new_stream(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")) as spool,
            self.rejects.open("wb") as rejects,
            console.progress("读入") as bar,
        ):
            for source, is_val in files:
                tally = Tally(source, is_val, first_record=self.read)
                self.tallies.append(tally)
                found, records = open_format(source, format)
                tally.format, tally.why = found
                read = get_format(found.name).read if found.name else _no_rows
                for part, item in records:
                    tally.read += 1
                    bar.advance()
                    place = self._place(part, is_val, has_val)
                    tally.has_val |= part == "val" and place == VAL
                    for reject in self._take(item, read, place, columns):
                        rejects.write(reject_line(reject))
                    if len(columns) >= ROWS_PER_GROUP:
                        spool.write_batch(columns.take())
            spool.write_batch(columns.take())

    def _place(self, part: Part, is_val: bool, has_val: bool) -> int | str:
        """Where a record goes: VAL, FREE (trained on or held out by its draw), or the reason why it is left out."""
        if part == "test":
            return "source.test-part"
        if is_val:
            return VAL if part != "train" else "source.train-part"
        if part == "val":
            return "source.val-part" if has_val else VAL
        return FREE

    def _take(self, item: Row | Reject, read: Read, place: int | str, columns: Columns) -> Iterator[Reject]:
        """Spool the conversations of one record; returns its rejects. A record without any is dropped once."""
        record = self.read
        self.read += 1
        if isinstance(place, str):
            self._drop(place, item.source)
            return
        first: Reject | None = None
        count = len(self.records)
        for result in (item,) if isinstance(item, Reject) else read(item):
            if isinstance(result, Reject):
                if self.strict:
                    refuse(result)
                first = first or result
                yield result
            else:
                self._keep(result, record, place, columns)
        if first and len(self.records) == count:
            self._drop(first.reason, first.source)

    def _keep(self, conversation: Conversation, record: int, place: int, columns: Columns) -> None:
        if self.max_turns:
            conversation = cut_turns(conversation, self.max_turns)
        id = content_id(conversation)
        columns.add(conversation, id)
        self.draws.append(draw(id, self.seed))
        self.parts.append(place)
        self.records.append(record)

    def _drop(self, reason: str, source: str) -> None:
        self.dropped[reason] += 1
        self.first_places.setdefault(reason, source)

    def decide(self, val_share: float, max_samples: int | None) -> tuple[Mask, Fates]:
        """For each conversation whether it is held out, and its fate (KEPT, SAMPLED_OUT, IN_VAL); fills the tallies."""
        draws, parts = np.frombuffer(self.draws, np.uint64), np.frombuffer(self.parts, np.uint8)
        is_val = parts == VAL
        splits = parts == FREE
        for tally in self.tallies:  # a file with a validation part of its own is not split further
            splits[self._range(tally)] &= not tally.has_val
        free = np.flatnonzero(splits)
        is_val[free] = choose_val(draws[free], val_share)
        fate = np.zeros(len(draws), np.uint8)
        fate[~is_val & np.isin(draws, draws[is_val])] = IN_VAL
        candidates = ~is_val & (fate == KEPT)
        fate[candidates & ~choose_sample(draws, candidates, max_samples)] = SAMPLED_OUT
        self._count(fate)
        return is_val, fate

    def _range(self, tally: Tally) -> slice:
        """The conversations that came from one source."""
        records = np.frombuffer(self.records, np.uint64)
        return slice(*np.searchsorted(records, [tally.first_record, tally.first_record + tally.read]))

    def _count(self, fate: Fates) -> None:
        """A record is kept if any of its conversations is; else it is dropped for the fate of one of them."""
        records = np.frombuffer(self.records, np.uint64)
        for tally in self.tallies:
            here = self._range(tally)
            tally.kept = len(np.unique(records[here][fate[here] == KEPT]))
        starts = np.flatnonzero(np.r_[True, records[1:] != records[:-1]])
        best = np.minimum.reduceat(fate, starts)
        for code, reason in FATE_REASONS.items():
            if (best == code).any():
                self.dropped[reason] = int((best == code).sum())

    def write_parts(self, is_val: Mask, fate: Fates) -> dict[str, int]:
        """Write ``train.parquet`` and ``val.parquet`` from the spool; returns their rows. The spool is deleted."""
        writers = {part: PartWriter(self.folder / f"{part}.parquet") for part in ("train", "val")}
        start = 0
        with pa.OSFile(str(self.spool)) as file, pa.ipc.open_stream(file) as spool, self.rejects.open("ab") as rejects:
            for batch in spool:
                here = slice(start, start + batch.num_rows)
                kept = fate[here] == KEPT
                writers["train"].write(batch.filter(pa.array(kept & ~is_val[here])))
                writers["val"].write(batch.filter(pa.array(kept & is_val[here])))
                for row in batch.filter(pa.array(fate[here] == IN_VAL)).to_pylist():
                    reject = in_val(to_conversation(row), row["messages"])
                    if self.strict:
                        refuse(reject)
                    self.first_places.setdefault(reject.reason, reject.source)
                    rejects.write(reject_line(reject))
                start += batch.num_rows
        for writer in writers.values():
            writer.close()
        self.spool.unlink()
        return {part: writer.rows for part, writer in writers.items()}


def open_format(source: SourceFile, format: str | None) -> tuple[Detection, Iterator[tuple[Part, Row | Reject]]]:
    """The format of a file, judged from its first rows unless told, and all its records.

    Raises: DataError ``source.*``, ``format.unknown-fields``.
    """
    records = read_parts(source)
    if source.container == "prepared":
        return Detection("messages", "hantune data prepare 的输出"), records
    if format:
        return Detection(format, "指定的格式"), records
    head: list[tuple[Part, Row | Reject]] = []
    rows: list[Row] = []
    while len(rows) < ROWS_TO_DETECT and (record := next(records, None)):
        head.append(record)
        if isinstance(record[1], Row):
            rows.append(record[1])
    found = detect(rows) if rows else Detection("", "没有一条能读的记录")
    return found, itertools.chain(head, records)


def _no_rows(row: Row) -> Iterator[Conversation | Reject]:
    """The reader of a file in which every record is broken: never called."""
    yield from ()


def cut_turns(conversation: Conversation, max_turns: int) -> Conversation:
    """The conversation's first ``max_turns`` pairs of question and answer."""
    messages = conversation.messages
    limit = 2 * max_turns + (messages[0].role == "system")
    if len(messages) <= limit:
        return conversation
    return Conversation(messages=messages[:limit], source=conversation.source, id=conversation.id)


def in_val(conversation: Conversation, messages: Any) -> Reject:
    """The reject for a training conversation that is also held out."""
    detail = "这段对话验证数据里也有, 不能拿来训练"
    return Reject(source=conversation.source, reason="split.in-val", detail=detail, record={"messages": messages})


def reject_line(reject: Reject) -> bytes:
    """One line of ``rejects.jsonl``; a very long record is cut."""
    record = reject.record
    text = orjson.dumps(record)
    if len(text) > 10 * RECORD_CHARACTERS:
        record = text.decode()[:RECORD_CHARACTERS]
    line = {"source": reject.source, "reason": reject.reason, "detail": reject.detail, "record": record}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def refuse(reject: Reject) -> NoReturn:
    """Raise a reject as the DataError of its own code (``--strict``)."""
    raise DataError(
        reject.reason,
        reject.detail,
        place=reject.source,
        hint="改好这一条; 或去掉 --strict, 让它进 rejects.jsonl, 其余照常整理",
    )
