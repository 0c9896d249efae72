"""The one pass over the sources: records in, conversations to a spool on disk, rejects to their file, tallies kept.

Nothing is held in memory but a few bytes per conversation (its draw, its part, its session, the number of its record);
the split and the sampling need all draws before the first row can be written, so ``decide`` and ``write_parts`` come
after.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from hantune.data.clean.pipeline import Pipeline
from hantune.data.container import Part
from hantune.data.dedup import PAIRS_SHOWN, Dedup, Pair, Signatures, clusters, exact_duplicates, near_duplicates
from hantune.data.opening import Item, Opened
from hantune.data.prepared import Columns, PartWriter, unpack
from hantune.data.sources import RECORD_CHARACTERS, SourceFile
from hantune.data.split import (
    Draws,
    Mask,
    choose_sample,
    choose_val,
    content_id,
    draw,
    together,
)  # fmt: skip
from hantune.data.turns import Yield
from hantune.data.types import Conversation, Reject
from hantune.errors import DataError

FREE, VAL = 0, 1
KEPT, SAMPLED_OUT, IN_VAL, NEAR_VAL, EXACT, NEAR = range(6)
FATE_REASONS = {
    SAMPLED_OUT: "sampled-out",
    IN_VAL: "split.in-val",
    NEAR_VAL: "split.near-val",
    EXACT: "dedup.exact",
    NEAR: "dedup.near",
}
Fates = NDArray[np.uint8]
OWN_WISH = ("clean.", "pii.", "dedup.", "chatlog.")
"""Reasons that are a rule's work or what logs are like: no fault of a record, so nothing for ``--strict``."""


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
    log: Yield | None = None


@dataclass
class Intake:
    """The state of the pass. One entry per conversation in ``draws``, ``parts``, ``sessions``, ``records``."""

    folder: Path
    seed: int
    max_turns: int | None = None
    strict: bool = False
    pipeline: Pipeline = field(default_factory=Pipeline)
    me: Sequence[str] = ()
    dedup: Dedup = "off"
    tallies: list[Tally] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    first_places: dict[str, str] = field(default_factory=dict)
    draws: array[int] = field(default_factory=lambda: array("Q"))
    parts: bytearray = field(default_factory=bytearray)
    sessions: array[int] = field(default_factory=lambda: array("Q"))
    records: array[int] = field(default_factory=lambda: array("Q"))
    read: int = 0
    pairs: dict[int, Pair] = field(default_factory=dict)
    """Conversation -> the one it is a duplicate of."""
    duplicates: Counter[str] = field(default_factory=Counter)
    some_pairs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def spool(self) -> Path:
        return self.folder / "spool.arrow"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.jsonl"

    def __post_init__(self) -> None:
        self.signatures = Signatures(self.folder / "signatures.bin") if self.dedup == "near" else None

    def place(self, part: Part, is_val: bool, has_val: bool) -> int | str:
        """Where a record goes: VAL, FREE (trained on or held out by its draw), or the reason why it is left out."""
        if part == "test":
            return "source.test-part"
        if is_val:
            return VAL if part != "train" else "source.train-part"
        if part == "val":
            return "source.val-part" if has_val else VAL
        return FREE

    def take(self, item: Item, opened: Opened, place: int | str, columns: Columns) -> Iterator[Reject]:
        """Spool the conversations of one record; returns its rejects. A record without any is dropped once."""
        record = self.read
        self.read += 1
        if isinstance(place, str):
            self._drop(place, item.source)
            return
        first: Reject | None = None
        count = len(self.records)
        for result in opened.results(item):
            if isinstance(result, Conversation):
                result = self.pipeline.conversation(cut_turns(result, self.max_turns))
            if isinstance(result, Conversation):
                self._keep(result, record, place, columns)
                continue
            result = self.pipeline.reject(result)
            if self.strict and not result.reason.startswith(OWN_WISH):
                refuse(result)
            first = first or result
            yield result
        if first and len(self.records) == count:
            self._drop(first.reason, first.source)

    def _keep(self, conversation: Conversation, record: int, place: int, columns: Columns) -> None:
        columns.add(conversation, content_id(conversation))
        self.parts.append(place)
        session = str(conversation.meta.get("session", ""))
        self.sessions.append(draw(session, self.seed) if session else 0)
        self.records.append(record)
        if self.signatures:
            self.signatures.add(conversation)

    def _drop(self, reason: str, source: str) -> None:
        self.dropped[reason] += 1
        self.first_places.setdefault(reason, source)

    def decide(self, val_share: float, max_samples: int | None) -> tuple[Mask, Fates]:
        """For each conversation whether it is held out, and its fate (KEPT, SAMPLED_OUT ...); fills the tallies.

        Nothing is on both sides that is equal, of one session, or with ``--dedup near`` similar.
        """
        draws, parts = np.frombuffer(self.draws, np.uint64), np.frombuffer(self.parts, np.uint8)
        is_val = parts == VAL
        splits = parts == FREE
        for tally in self.tallies:  # a file with a validation part of its own is not split further
            splits[self._range(tally)] &= not tally.has_val
        matrix = self.signatures.matrix() if self.signatures else None
        labels = clusters(matrix, np.sort(np.unique(draws, return_index=True)[1])) if matrix is not None else None
        groups = together(draws, [draws, labels]) if labels is not None else draws
        sides = self._sides(groups)
        free = np.flatnonzero(splits)
        is_val[free] = choose_val(sides[free], val_share)
        fate = np.zeros(len(draws), np.uint8)
        if is_val.any():
            fate[~is_val & (np.isin(sides, sides[is_val]) | np.isin(groups, groups[is_val]))] = NEAR_VAL
            fate[~is_val & np.isin(draws, draws[is_val])] = IN_VAL
        if self.dedup != "off":
            rows = np.flatnonzero(fate == KEPT)
            rows = rows[np.argsort(~is_val[rows], kind="stable")]
            self._leave_out(exact_duplicates(draws, rows), EXACT, fate)
            if matrix is not None and labels is not None:
                self._leave_out(near_duplicates(matrix, labels, rows[fate[rows] == KEPT]), NEAR, fate)
        candidates = ~is_val & (fate == KEPT)
        fate[candidates & ~choose_sample(draws, candidates, max_samples)] = SAMPLED_OUT
        self._count(fate)
        return is_val, fate

    def _sides(self, groups: Draws) -> Draws:
        """The draws that decide on the side: of the session in a chat log, of the group of alike ones elsewhere.

        Sessions are not joined by what is said in several (``在吗`` ``在``): that would make one of them all. Where
        their sides differ, what is alike leaves the training part.
        """
        sessions = np.frombuffer(self.sessions, np.uint64)
        return np.where(sessions == 0, groups, sessions)

    def _leave_out(self, pairs: Sequence[Pair], code: int, fate: Fates) -> None:
        for pair in pairs:
            fate[pair.one] = code
            self.pairs[pair.one] = pair

    def _range(self, tally: Tally) -> slice:
        """The conversations that came from one source."""
        records = np.frombuffer(self.records, np.uint64)
        return slice(*np.searchsorted(records, [tally.first_record, tally.first_record + tally.read]))

    def _count(self, fate: Fates) -> None:
        """A record is kept if any of its conversations is; else it is dropped for the fate of one of them."""
        records = np.frombuffer(self.records, np.uint64)
        for tally in self.tallies:
            here = self._range(tally)
            kept = records[here][fate[here] == KEPT]  # in order
            tally.kept = int(np.count_nonzero(kept[1:] != kept[:-1])) + bool(len(kept))
        starts = np.flatnonzero(np.r_[True, records[1:] != records[:-1]])
        best = np.minimum.reduceat(fate, starts)
        for code, reason in FATE_REASONS.items():
            if (best == code).any():
                self.dropped[reason] = int((best == code).sum())

    def write_parts(self, is_val: Mask, fate: Fates) -> dict[str, int]:
        """Write ``train.parquet`` and ``val.parquet`` from the spool; returns their rows. The spool is deleted."""
        writers = {part: PartWriter(self.folder / f"{part}.parquet") for part in ("train", "val")}
        places = self._places_of_kept()
        start = 0
        with self.rejects.open("ab") as rejects:
            for batch in self._spooled():
                here = slice(start, start + batch.num_rows)
                kept = fate[here] == KEPT
                writers["train"].write(_chosen(batch, kept & ~is_val[here]))
                writers["val"].write(_chosen(batch, kept & is_val[here]))
                for place in np.flatnonzero(fate[here] > SAMPLED_OUT).tolist():
                    reject = self._left_out(batch.slice(place, 1).to_pylist()[0], start + place, fate, places)
                    self.first_places.setdefault(reject.reason, reject.source)
                    rejects.write(reject_line(reject))
                start += batch.num_rows
        for writer in writers.values():
            writer.close()
        self.spool.unlink()
        if self.signatures:
            self.signatures.close()
        return {part: writer.rows for part, writer in writers.items()}

    def _spooled(self) -> Iterator[pa.RecordBatch]:
        """The conversations of the pass, in order."""
        with pa.OSFile(str(self.spool)) as file:
            yield from unpack(file)

    def _places_of_kept(self) -> dict[int, str]:
        """Where the conversations stand that others are duplicates of."""
        wanted = np.unique(np.array([pair.other for pair in self.pairs.values()], np.int64))
        places: dict[int, str] = {}
        start = 0
        for batch in self._spooled() if len(wanted) else ():
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + batch.num_rows)]
            sources = batch.column("source").take(pa.array(here - start)).to_pylist()
            places.update(zip(here.tolist(), sources, strict=True))
            start += batch.num_rows
        return places

    def _left_out(self, row: dict[str, Any], number: int, fate: Fates, places: dict[int, str]) -> Reject:
        """The reject for a conversation that is held out too (an error with ``strict``), or a duplicate."""
        code = int(fate[number])
        if code in (EXACT, NEAR):
            pair = self.pairs[number]
            like = "相同" if code == EXACT else f"很像 (相似 {pair.similarity:.2f})"
            detail = f"和 {places[pair.other]} {like}, 只留那一段"
            self.duplicates[FATE_REASONS[code]] += 1
            if len(self.some_pairs) < PAIRS_SHOWN:
                kept = {"kept": places[pair.other], "dropped": row["source"], "similarity": pair.similarity}
                self.some_pairs.append(kept)
        elif code == IN_VAL:
            detail = "这段对话验证数据里也有, 不能拿来训练"
        else:
            detail = "验证数据里有和它很像的, 或者同一次聊天里的对话, 不能拿来训练"
        record = {"messages": row["messages"]}
        reject = Reject(source=row["source"], reason=FATE_REASONS[code], detail=detail, record=record)
        is_told = not self.sessions[number]  # sessions meet what others say too: nobody's fault
        if self.strict and is_told and code in (IN_VAL, NEAR_VAL):
            refuse(reject)
        return reject


def _chosen(batch: pa.RecordBatch, mask: Mask) -> pa.RecordBatch:
    """The rows of a batch where the mask is true."""
    return batch if mask.all() else batch.filter(pa.array(mask))


def cut_turns(conversation: Conversation, max_turns: int | None) -> Conversation:
    """The conversation's first ``max_turns`` pairs of question and answer; None is all of them."""
    messages = conversation.messages
    if max_turns is None:
        return conversation
    limit = 2 * max_turns + (messages[0].role == "system")
    if len(messages) <= limit:
        return conversation
    return dataclasses.replace(conversation, messages=messages[:limit])


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
