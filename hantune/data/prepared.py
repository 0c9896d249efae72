"""The PREPARED folder: how conversations lie in it, and how they are written and read again.

``train.parquet`` and ``val.parquet`` have the columns ``messages`` (list of {role, content, learn}), ``source``
(``file:line``) and ``id`` (equal for equal conversations). Row groups have a fixed size and nothing depends on the
time or the machine, so equal conversations give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hantune.data.types import Conversation, Message
from hantune.errors import DataError, RefusedError
from hantune.paths import quoted

ROWS_PER_GROUP = 4096
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("learn", pa.bool_())])
REPEATED = ["messages.list.element.role"]
"""Columns worth a dictionary; one of texts that hardly repeat costs time, and four times as much when it is read."""
SCHEMA = pa.schema([("messages", pa.list_(MESSAGE)), ("source", pa.string()), ("id", pa.string())])


class Columns:
    """Conversations on their way into a table, column by column."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.offsets = array("i", [0])
        self.roles: list[str] = []
        self.texts: list[str] = []
        self.learns: list[bool] = []
        self.sources: list[str] = []
        self.ids: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, conversation: Conversation, id: str) -> None:
        """One more row."""
        for message in conversation.messages:
            self.roles.append(message.role)
            self.texts.append(message.text)
            self.learns.append(message.is_learned)
        self.offsets.append(len(self.roles))
        self.sources.append(conversation.source)
        self.ids.append(id)

    def take(self) -> pa.RecordBatch:
        """All rows so far as one batch; the columns are empty again."""
        batch = batch_of(self.offsets, self.roles, self.texts, self.learns, self.sources, self.ids)
        self._clear()
        return batch


def batch_of(
    offsets: Sequence[int], roles: list[str], texts: list[str], learns: list[bool], sources: list[str], ids: list[str]
) -> pa.RecordBatch:
    """Rows of ``SCHEMA`` from flat columns; ``offsets`` ends the messages of each row, and begins with 0."""
    arrays = [pa.array(roles, pa.string()), pa.array(texts, pa.string()), pa.array(learns, pa.bool_())]
    messages = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(arrays, fields=list(MESSAGE))
    )
    return pa.record_batch([messages, pa.array(sources, pa.string()), pa.array(ids, pa.string())], schema=SCHEMA)


def pack(batch: pa.RecordBatch) -> bytes:
    """Rows as an Arrow stream of their own, to be sent or put behind others in a file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:  # not compressed: it is read once, and soon
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def unpack(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The batches that ``pack`` put one behind another."""
    while file.tell() < file.size():
        with pa.ipc.open_stream(file) as stream:
            yield from stream


class PartWriter:
    """Writes one parquet file in row groups of a fixed size, whatever the size of the batches that come.

    Encoding takes as long as all else that is done with a batch, and happens in a thread of its own.
    """

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._encoding: Future[None] | None = None
        self._writer = pq.ParquetWriter(
            path, SCHEMA, compression="zstd", use_dictionary=REPEATED, write_statistics=False
        )
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """More rows, in order."""
        self._waiting.append(batch)
        self._num_waiting += batch.num_rows
        self.rows += batch.num_rows
        if self._num_waiting >= ROWS_PER_GROUP:
            self._flush(self._num_waiting - self._num_waiting % ROWS_PER_GROUP)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, SCHEMA)
        if rows:
            self._settle()
            self._encoding = self._thread.submit(self._encode, table.slice(0, rows))
        self._waiting = table.slice(rows).to_batches()
        self._num_waiting = table.num_rows - rows

    def _encode(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=ROWS_PER_GROUP)

    def _settle(self) -> None:
        """Wait for what is being encoded.

        Raises: what it raised.
        """
        if self._encoding:
            self._encoding.result()

    def close(self) -> None:
        """Write what still waits and the footer."""
        self._flush(self._num_waiting)
        self._settle()
        self._thread.shutdown()
        self._writer.close()


def to_conversation(row: dict[str, Any]) -> Conversation:
    """A row of a table as a conversation; ``learn`` is None where it is what the role says."""
    messages = tuple(
        Message(
            role=item["role"],
            text=item["content"],
            learn=None if item["learn"] == (item["role"] == "assistant") else item["learn"],
        )
        for item in row["messages"]
    )
    return Conversation(messages=messages, source=row["source"], id=row.get("id", ""))


def fingerprint_of(folder: Path) -> str:
    """The sha256 over the bytes of ``train.parquet`` and then ``val.parquet``, in hexadecimal."""
    digest = hashlib.sha256()
    for part in ("train", "val"):
        with (folder / f"{part}.parquet").open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def is_prepared(path: Path) -> bool:
    """Whether ``data prepare`` finished in this folder."""
    return all((path / name).is_file() for name in ("manifest.json", "train.parquet", "val.parquet"))


def open_prepared(path: Path) -> Prepared:
    """The prepared data in a folder.

    Raises: DataError ``data.not-prepared``.
    """
    if not is_prepared(path):
        raise DataError(
            "data.not-prepared",
            "这里没有整理好的数据" if path.exists() else "没有这个文件夹",
            place=str(path),
            hint=f"先整理: hantune data prepare 你的文件.json --out {quoted(path)}",
        )
    return Prepared(path)


class Prepared:
    """Read access to a PREPARED folder; conversations are streamed, never all in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was read, kept and dropped, and from where.

        Raises: DataError ``data.not-prepared`` for a manifest that is not one.
        """
        try:
            manifest = json.loads((self.folder / "manifest.json").read_bytes())
            _ = manifest["fingerprint"], manifest["train"], manifest["val"]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                "data.not-prepared",
                "manifest.json 不是 hantune data prepare 写的, 或者坏了",
                place=str(self.folder / "manifest.json"),
                hint="用同一条 hantune data prepare 命令加上 --replace 重新整理",
            ) from None
        return dict(manifest)

    @property
    def fingerprint(self) -> str:
        """The sha256 over both parquet files, as recorded when they were written."""
        return str(self.manifest["fingerprint"])

    def count(self, part: Literal["train", "val"]) -> int:
        """How many conversations a part holds."""
        return int(self.manifest[part])

    def batches(self, part: Literal["train", "val"]) -> Iterator[pa.RecordBatch]:
        """The rows of a part in the order of the sources, some thousands at a time."""
        with pq.ParquetFile(self.folder / f"{part}.parquet") as file:
            yield from file.iter_batches(batch_size=ROWS_PER_GROUP)

    def conversations(self, part: Literal["train", "val"]) -> Iterator[Conversation]:
        """The conversations of a part, in the order of the sources."""
        for batch in self.batches(part):
            for row in batch.to_pylist():
                yield to_conversation(row)

    def ids(self, part: Literal["train", "val"]) -> Sequence[str]:
        """The ids of a part; equal ids are equal conversations."""
        return [str(id) for id in pq.read_table(self.folder / f"{part}.parquet", columns=["id"])["id"].to_pylist()]

    def refuse_overlap(self) -> None:
        """Nothing, if no conversation is in both parts.

        Raises: RefusedError ``split.overlap``.
        """
        both = set(self.ids("train")) & set(self.ids("val"))
        if both:
            raise RefusedError(
                "split.overlap",
                f"有 {len(both)} 段对话同时在训练和验证里: 验证损失会好得不真实",
                place=str(self.folder),
                hint="用 hantune data prepare ... --replace 重新整理, 不要手工改这两个文件",
            )
