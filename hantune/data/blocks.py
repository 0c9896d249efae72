"""Sources to the intake, block by block, by as many processes as there are.

    records ─ blocks of some thousand ─ take (any process) ─> Taken ─ absorb, in order ─> Intake

What a block gives does not hang on other blocks, but where private values are masked: they are numbered in the order
of all records, so their blocks are taken here, one after the other. Lines of LCCC with nothing to clean are taken at
once (``lines.py``).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hantune.data import packed
from hantune.data.clean.pipeline import SAMPLES, Pipeline
from hantune.data.dedup import shingles, signatures
from hantune.data.formats import lccc
from hantune.data.intake import FREE, VAL, Intake, Tally, reject_line
from hantune.data.lines import Dialogues, read_lines
from hantune.data.opening import Opened, open_source
from hantune.data.pool import ordered_map
from hantune.data.prepared import Columns, pack, unpack
from hantune.data.rows import line_chunks, parse_line, raw_lines
from hantune.data.sources import SourceFile
from hantune.data.split import draws_of
from hantune.data.types import Conversation
from hantune.errors import ConfigError
from hantune.log import console

RECORDS = 4096
"""Records of a block, where its lines are not taken by their bytes (``rows.CHUNK``)."""
LARGE = 1 << 24
"""Bytes from which a file of lines is worth more than one process."""
Array = np.ndarray[Any, Any]


class Taken(NamedTuple):
    """What became of a block. ``draws``, ``parts``, ``sessions`` and ``records`` go with its rows."""

    rows: bytes
    """The conversations, as ``spool.pack`` writes them."""
    draws: Array
    parts: Array
    sessions: Array
    records: Array
    """The number of each row's record in the block."""
    rejects: bytes
    signatures: bytes
    counts: dict[str, Any]
    """What else the intake adds up: read, has_val, dropped, first_places, changed, samples, found."""


class Lines(NamedTuple):
    """A block of a file of JSON lines: the number of the first line, and the bytes of whole lines.

    Where they are not UTF-8, or one of them is too long: text or bytes line by line, None for the long one.
    """

    first: int
    data: bytes | list[Any]

    def each(self) -> list[tuple[int, bytes | str | None]]:
        """The lines that are not blank, with their numbers."""
        lines = self.data.split(b"\n") if isinstance(self.data, bytes) else self.data
        return [(number, line) for number, line in enumerate(lines, self.first) if line is None or line.strip()]

    def some(self, places: Array) -> list[tuple[int, bytes | str | None]]:
        """The lines at these indices, with their numbers."""
        if not len(places) or not isinstance(self.data, bytes):
            return [(self.first + place, self.data[place]) for place in places.tolist()]
        ends = np.append(np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord("\n")), len(self.data))
        spans = zip(places.tolist(), np.append(0, ends + 1)[places].tolist(), ends[places].tolist(), strict=True)
        return [(self.first + place, self.data[begin:end]) for place, begin, end in spans]


class Block(NamedTuple):
    """What was taken, from which block of all, of which source (by its place among them)."""

    number: int
    source: int
    taken: Taken


class Shard(NamedTuple):
    """Which of how many: 1/4 ... 4/4."""

    number: int = 1
    total: int = 1

    def takes(self, block: int) -> bool:
        """Whether block number ``block`` (from 0) is one of this shard's."""
        return block % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE = Shard()
"""Everything, in one run."""


@dataclass(frozen=True)
class Taker:
    """How the blocks of one source are taken; all that another process must know."""

    seed: int
    opened: Opened
    pipeline: Pipeline
    in_order: bool
    """The pipeline counts on through all blocks; else each has its own."""
    place: str = ""
    is_val: bool = False
    has_val: bool = False
    """``--val`` was given, nothing else is held out."""
    max_turns: int | None = None
    strict: bool = False
    near: bool = False
    """Signatures are wanted."""

    def lines(self, block: Lines) -> Taken:
        """What became of some lines of JSON.

        Raises: with ``strict`` the first reject as a DataError of its own code.
        """
        found = None
        is_plain = self.opened.found.name == lccc.NAME and self.pipeline.mode == "keep" and not self.near
        if is_plain and isinstance(block.data, bytes):
            found = read_lines(block.data, self.place, block.first, self.max_turns, self.pipeline.acts_on)
        others = block.each() if found is None else block.some(found.others)
        rest = self.items([(None, parse_line(line, f"{self.place}:{number}")) for number, line in others])
        return rest if found is None else self._merged(found, rest)

    def _merged(self, found: Dialogues, rest: Taken) -> Taken:
        """The dialogues that were read at once, with the other lines' between them."""
        numbers = np.sort(np.append(found.lines, found.others))  # of all records
        num_found = len(found.lines)
        draws = np.append(draws_of(found.digests, self.seed), rest.draws)
        parts = np.append(np.full(num_found, VAL if self.is_val else FREE, np.uint8), rest.parts)
        sessions = np.append(np.zeros(num_found, np.uint64), rest.sessions)
        lines = np.append(found.lines, found.others[rest.records.astype(np.int64)])
        records, rows = np.searchsorted(numbers, lines).astype(np.uint64), found.batch
        if len(rest.draws):
            order = np.argsort(records, kind="stable")
            draws, parts, sessions, records = (each[order] for each in (draws, parts, sessions, records))
            rows = pa.concat_batches([rows, *unpack(pa.BufferReader(rest.rows))]).take(pa.array(order))
        counts = rest.counts | {"read": len(numbers)}
        return Taken(pack(rows), draws, parts, sessions, records, rest.rejects, rest.signatures, counts)

    def items(self, items: Iterable[tuple[Any, Any]]) -> Taken:
        """What became of some records, each with the part that its file puts it in.

        Raises: with ``strict`` the first reject as a DataError of its own code.
        """
        pipeline = self.pipeline if self.in_order else _fresh(self.pipeline)
        small = Intake(Path(), self.seed, self.max_turns, self.strict, pipeline)
        shown = _Shingles() if self.near else None
        small.signatures = shown  # type: ignore[assignment]
        columns, rejects, has_val = Columns(), [], False
        for part, item in items:
            place = small.place(part, self.is_val, self.has_val)
            has_val |= part == "val" and place == VAL
            rejects += [reject_line(reject) for reject in small.take(item, self.opened, place, columns)]
        draws = draws_of(bytes.fromhex("".join(columns.ids)), self.seed)
        counts = {"read": small.read, "has_val": has_val, "dropped": dict(small.dropped)}
        counts |= {"first_places": small.first_places}
        if not self.in_order:
            counts |= {"changed": pipeline.changed, "samples": pipeline.samples, "found": pipeline.masker.found}
        return Taken(
            pack(columns.take()),
            draws,
            np.array(small.parts, np.uint8),
            np.array(small.sessions, np.uint64),
            np.array(small.records, np.uint64),
            b"".join(rejects),
            signatures(shown.rows).tobytes() if shown else b"",
            counts,
        )


@dataclass
class _Shingles:
    """The n-grams of a block's conversations."""

    rows: list[list[str]] = field(default_factory=list)

    def add(self, conversation: Conversation) -> None:
        self.rows.append(shingles(conversation))


def _fresh(pipeline: Pipeline) -> Pipeline:
    """A pipeline of the same rules that has seen nothing."""
    return Pipeline(
        pipeline.rules, pipeline.pii, pipeline.blocked, masker=pipeline.masker.fresh(), mode=pipeline.mode
    )


def take_all(
    intake: Intake,
    files: Sequence[tuple[SourceFile, bool]],
    format: str | None,
    *,
    has_val: bool,
    workers: int = 1,
    shard: Shard = WHOLE,
) -> Iterator[Block]:
    """The blocks of all sources that are the shard's, taken by that many processes; each source enters ``tallies``.

    Raises: DataError of the sources; with ``strict`` the first reject as a DataError of its own code; ConfigError
        ``shard.in-order``.
    """
    done = 0
    for place, (given, is_val) in enumerate(files):
        opened = open_source(given, format, intake.me)
        intake.pipeline.start(opened.people)
        source = dataclasses.replace(given, name=intake.pipeline.name(given.name))
        why = intake.pipeline.name(opened.found.why)
        intake.tallies.append(Tally(source, is_val, opened.found.name, why, log=opened.log))
        in_order = intake.pipeline.mode == "mask"
        if in_order and shard.total > 1:
            raise ConfigError(
                "shard.in-order",
                "换代号 (--pii mask, 聊天记录默认这样) 要从头到尾按顺序处理, 不能用 --shard 分开",
                place=source.name,
                hint="去掉 --shard; 或者加 --pii drop (有隐私内容的对话不要)",
            )
        pipeline = intake.pipeline if in_order else _fresh(intake.pipeline)
        taker = Taker(
            intake.seed, opened, pipeline, in_order, source.place, is_val, has_val,
            intake.max_turns, intake.strict, intake.dedup == "near",
        )  # fmt: skip
        are_lines = not in_order and _are_lines(source) and bool(opened.found.name)
        blocks = _Own(line_blocks(source) if are_lines else in_blocks(opened.items(source)), shard, done)
        take = taker.lines if are_lines else taker.items
        may_travel = are_lines and opened.read.__module__.startswith("hantune.")
        is_large = source.path.is_file() and source.path.stat().st_size > LARGE
        with ordered_map(take, blocks, workers if may_travel and is_large else 1) as takings:
            yield from (Block(blocks.numbers.popleft(), place, taken) for taken in takings)
        done = blocks.done
        source.seen.bytes = _size(source)


def _are_lines(source: SourceFile) -> bool:
    """Whether the records are just the lines of the file."""
    return source.container == "lines" and not source.sample and source.part is None and source.layout is None


def line_blocks(source: SourceFile) -> Iterator[Lines]:
    """The lines of a file of JSON lines, in blocks.

    Raises: DataError ``source.broken-gzip``, ``source.broken-archive``.
    """
    first = 1
    with packed.errors(source.path, source.member):
        if source.encoding.startswith("utf-8"):
            for chunk in line_chunks(source):
                yield Lines(first, chunk)
                first += chunk.count(b"\n") if isinstance(chunk, bytes) else len(chunk)
            return
        for lines in in_blocks(raw_lines(source)):
            yield Lines(first, lines)
            first += len(lines)


def in_blocks(items: Iterable[Any], size: int = RECORDS) -> Iterator[list[Any]]:
    """The items, so many at a time."""
    stream = iter(items)
    while block := list(islice(stream, size)):
        yield block


@dataclass
class _Own:
    """Those of some blocks that are a shard's, and their numbers among all blocks."""

    blocks: Iterable[Any]
    shard: Shard
    done: int
    numbers: deque[int] = field(default_factory=deque)

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks:
            self.done += 1
            if self.shard.takes(self.done - 1):
                self.numbers.append(self.done - 1)
                yield block


def absorb_all(intake: Intake, blocks: Iterable[Block], sources: Sequence[SourceFile] = ()) -> None:
    """Spool the conversations of the blocks, in their order, and add up what they say.

    ``sources``: the files that the blocks come from, for the progress.

    Raises: what ``take_all`` raises.
    """
    total = sum(map(_size, sources)) >> 20
    with (
        intake.spool.open("wb") as spool,
        intake.rejects.open("wb") as rejects,
        console.progress("读入", total or None, unit="MB" if total else "条") as bar,
    ):
        for block in blocks:
            _absorb(intake, block)
            rejects.write(block.taken.rejects)
            spool.write(block.taken.rows)
            done = sum(min(each.seen.bytes, _size(each)) for each in sources) >> 20 if total else intake.read
            bar.advance(done - bar.done, f"{intake.read} 条" if total else None)


def _size(source: SourceFile) -> int:
    """The bytes of a file on disk; none for a member of a zip, of which there may be many, and for a folder."""
    return source.path.stat().st_size if source.path.is_file() and not source.member else 0


def _absorb(intake: Intake, block: Block) -> None:
    """Add the numbers of a block to those of the intake."""
    tally, taken, counts = intake.tallies[block.source], block.taken, block.taken.counts
    tally.first_record = tally.first_record if tally.read else intake.read
    tally.read += counts["read"]
    tally.has_val |= counts["has_val"]
    intake.draws.frombytes(taken.draws.tobytes())
    intake.parts += taken.parts.tobytes()
    intake.sessions.frombytes(taken.sessions.tobytes())
    intake.records.frombytes((taken.records + np.uint64(intake.read)).tobytes())
    intake.read += counts["read"]
    intake.dropped.update(counts["dropped"])
    intake.first_places = counts["first_places"] | intake.first_places
    if intake.signatures:
        intake.signatures.extend(taken.signatures)
    if "changed" in counts:
        pipeline = intake.pipeline
        pipeline.changed.update(counts["changed"])
        pipeline.masker.found.update(counts["found"])
        for name, samples in counts["samples"].items():
            pipeline.samples[name] = (pipeline.samples.get(name, []) + samples)[:SAMPLES]
