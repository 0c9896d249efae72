"""``--shard I/N``: one preparation done by N processes or machines that share nothing but the files.

The records of all sources are counted off in blocks (``blocks.RECORDS``); shard I takes every N-th block, from the
I-th on, and keeps what it took in a folder: ``blocks.arrow`` and ``shard.json``. Only the merge can say what is held
out, a duplicate or sampled out, so it goes on from there just as a single run does from its own blocks, and gives the
same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from hantune.data.blocks import Block, Shard, Taken
from hantune.data.intake import Intake, Tally
from hantune.data.prepared import SCHEMA, pack, unpack
from hantune.data.sources import SourceFile
from hantune.data.turns import Yield
from hantune.errors import ConfigError, DataError
from hantune.paths import write_json

RECORD, BLOCKS = "shard.json", "blocks.arrow"
OWN = [("draws", pa.uint64()), ("parts", pa.uint8()), ("sessions", pa.uint64()), ("records", pa.uint64())]
"""Columns beside those of the rows."""
STORED = pa.schema([*SCHEMA, *OWN])


def parse_shard(text: str) -> Shard:
    """The shard that ``I/N`` names.

    Raises: ConfigError ``shard.bad-number``.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    shard = Shard(*map(int, match.groups())) if match else None
    if shard is None or not 1 <= shard.number <= shard.total:
        raise ConfigError(
            "shard.bad-number",
            f"--shard 要写成 I/N, I 从 1 到 N, 这里是 {text!r}",
            place="--shard",
            hint="例如四份: --shard 1/4, --shard 2/4, --shard 3/4, --shard 4/4",
        )
    return shard


def is_shard(path: Path) -> bool:
    """Whether a shard was finished in this folder."""
    return (path / RECORD).is_file() and (path / BLOCKS).is_file()


def write_shard(intake: Intake, shard: Shard, blocks: Iterable[Block], identity: dict[str, Any]) -> dict[str, Any]:
    """Write the blocks, then what the merge needs to know; returns {shard, read, flags, key, versions, sources}."""
    read = 0
    folder = intake.folder
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(folder / BLOCKS), "wb") as sink, pa.ipc.new_stream(sink, STORED, options=options) as stream:
        for number, source, taken in blocks:
            (rows,) = unpack(pa.BufferReader(taken.rows))
            batch = pa.record_batch(
                [*rows.columns, *(pa.array(getattr(taken, name)) for name, _ in OWN)], schema=STORED
            )
            facts = orjson.dumps({"number": number, "source": source, "counts": taken.counts})
            told = {"facts": facts, "rejects": taken.rejects, "signatures": taken.signatures}
            stream.write_batch(batch, custom_metadata=told)
            read += taken.counts["read"]
    record = {"shard": list(shard), "read": read, **identity, "sources": list(map(_record_of, intake.tallies))}
    write_json(folder / RECORD, record)
    if intake.signatures:
        intake.signatures.close()
    return record


def _record_of(tally: Tally) -> dict[str, Any]:
    """A source, as JSON."""
    source = dataclasses.asdict(tally.source) | {"path": str(tally.source.path), "layout": None}
    del source["seen"]
    log = tally.log and tally.log.as_dict()
    return {"source": source, "is_val": tally.is_val, "format": tally.format, "why": tally.why, "log": log}


def tally_of(record: Mapping[str, Any]) -> Tally:
    """The source of a shard, nothing counted yet."""
    source = SourceFile(**{**record["source"], "path": Path(record["source"]["path"])})
    return Tally(**{**record, "source": source, "log": record["log"] and Yield.of(record["log"])})


def open_shards(folders: Sequence[Path]) -> dict[str, Any]:
    """The record that the shards share, without the parts that differ.

    Raises: DataError ``shard.mixed``, ``shard.incomplete``.
    """
    records = [json.loads((folder / RECORD).read_bytes()) for folder in folders]
    shards = [Shard(*record.pop("shard")) for record in records]
    for folder, record, shard in zip(folders, records, shards, strict=True):
        record.pop("read")
        if record != records[0] or shard.total != shards[0].total:
            raise DataError(
                "shard.mixed",
                f"这一份和 {folders[0]} 不是同一次整理的: 文件, 选项, 版本或份数不同",
                place=str(folder),
                hint="各份要用同样的文件和选项, 只有 --shard 和 --out 不同",
            )
    numbers = [shard.number for shard in shards]
    missing = sorted(set(range(1, shards[0].total + 1)) - set(numbers))
    if missing or len(numbers) > shards[0].total:
        twice = [str(shards[i]) for i, number in enumerate(numbers) if number in numbers[:i]]
        absent = [f"{number}/{shards[0].total}" for number in missing]
        what = f"还缺 {', '.join(absent)}" if absent else f"重复: {', '.join(twice)}"
        raise DataError(
            "shard.incomplete",
            f"{shards[0].total} 份没有到齐, {what}",
            place=", ".join(map(str, folders)),
            hint="把每一份都整理好 (--shard I/N), 再一起合并: hantune data prepare 各份的文件夹 --out DIR",
        )
    return dict(records[0])


def read_shards(folders: Sequence[Path]) -> Iterator[Block]:
    """The blocks of all shards, in the order in which one run takes them."""
    streams = sorted((json.loads((folder / RECORD).read_bytes())["shard"][0], folder) for folder in folders)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(_blocks(folder))) for _, folder in streams]
        while True:
            for reader in readers:  # in turn: shard I has every N-th block from the I-th on
                block = next(reader, None)
                if block is None:
                    return
                yield block


def _blocks(folder: Path) -> Generator[Block, None, None]:
    """The blocks of one shard."""
    with pa.OSFile(str(folder / BLOCKS)) as file, pa.ipc.open_stream(file) as stream:
        while True:
            try:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
            except StopIteration:
                return
            facts = orjson.loads(metadata["facts"])
            own = {name: np.asarray(batch.column(name)) for name, _ in OWN}
            taken = Taken(
                rows=pack(batch.select(SCHEMA.names)),
                rejects=metadata["rejects"],
                signatures=metadata["signatures"],
                counts=facts["counts"],
                **own,
            )
            yield Block(facts["number"], facts["source"], taken)
