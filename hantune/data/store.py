"""The token store: the examples of one prepared part as memory-mapped arrays in ``PREPARED/tokens-HASH/``.

The name is made of everything that decides the ids, so a store is never stale: another tokenizer, template or limit has
another folder. ``max_samples`` is not among it: it picks rows when the store is opened.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow.parquet as pq

from hantune.data.bulk import Block, Bulk
from hantune.data.fit import NOTHING_LEFT
from hantune.data.pool import cores, ordered_map
from hantune.data.prepared import Prepared
from hantune.data.templates.base import Template
from hantune.data.tokens import Encoder
from hantune.data.types import Example
from hantune.errors import MachineError
from hantune.log import console
from hantune.paths import new_folder, write_json

FORMAT = 1
MANY = 100_000
"""Conversations that are worth more than one process."""
Arrays = Mapping[str, "np.ndarray[Any, Any]"]
COLUMNS = {
    "ids": "uint16",  # uint32 for large vocabularies
    "mask": "uint8",
    "offsets": "int64",
    "characters": "int32",
    "cut": "uint8",
    "sources": "uint8",
    "source_offsets": "int64",
}
"""File -> type. ``offsets`` and ``source_offsets`` end rows; both begin with 0."""


class TokenStore(Sequence[Example]):
    """Examples of one part, read from disk as they are asked for."""

    def __init__(self, arrays: Arrays, dropped: Mapping[str, int], rows: np.ndarray[Any, Any]) -> None:
        self._arrays = arrays
        self._rows = rows
        self.dropped = dict(dropped)
        """Why conversations became no example, and how many."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(self._rows[index])
        start, end = (int(value) for value in self._arrays["offsets"][row : row + 2])
        first, last = (int(value) for value in self._arrays["source_offsets"][row : row + 2])
        return Example(
            ids=tuple(self._arrays["ids"][start:end].tolist()),
            mask=tuple(self._arrays["mask"][start:end].tolist()),
            source=self._arrays["sources"][first:last].tobytes().decode(),
            is_cut=bool(self._arrays["cut"][row]),
        )

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens per example (int64)."""
        return np.asarray(np.diff(self._arrays["offsets"])[self._rows])

    def blocks(self, tokens: int = 1 << 20) -> Iterator[tuple[int, Any, Any, Any]]:
        """All examples in order, about ``tokens`` tokens at a time: (index of the first, offsets, ids, mask).

        ``offsets`` are those of ``ids`` and ``mask`` and begin with 0. For looking through everything at array speed.
        """
        ends = np.cumsum(self.lengths)
        first = 0
        while first < len(self):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + tokens, side="right")))
            rows = self._rows[first:last]
            offsets = np.concatenate([[0], ends[first:last] - before])
            starts = self._arrays["offsets"][rows]
            places: Any = slice(starts[0], starts[0] + offsets[-1])
            if rows[-1] - rows[0] >= len(rows):  # rows between them were not drawn
                places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], np.diff(offsets))
            yield first, offsets, self._arrays["ids"][places], self._arrays["mask"][places]
            first = last

    @property
    def learned(self) -> np.ndarray[Any, Any]:
        """Learned tokens per example (int64)."""
        sums = np.concatenate([[0], np.cumsum(self._arrays["mask"], dtype=np.int64)])
        return np.asarray(np.diff(sums[self._arrays["offsets"]])[self._rows])

    @property
    def characters(self) -> np.ndarray[Any, Any]:
        """Characters of learned text per example (int32), for bits per character."""
        return np.asarray(self._arrays["characters"][self._rows])


def open_tokens(
    prepared: Prepared,
    part: Literal["train", "val"],
    encoder: Encoder,
    template: Template,
    max_tokens: int,
    max_turns: int | None = None,
    max_samples: int | None = None,
    seed: int = 42,
) -> TokenStore:
    """The examples of a part, encoded now if they never were; a folder that cannot be written is kept in memory.

    Raises: what ``Template.render`` raises; MachineError ``machine.disk-full``.
    """
    key = {
        "format": FORMAT,
        "part": part,
        "data": prepared.fingerprint,
        "tokenizer": encoder.fingerprint,
        "template": [template.name, template.text, template.system],
        "max_tokens": max_tokens,
        "max_turns": max_turns,
    }
    types = COLUMNS | {"ids": "uint16" if encoder.vocab_size <= 1 << 16 else "uint32"}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = prepared.folder / f"tokens-{name}"
    found = _read(folder)
    if found is None:
        blocks = _encode_all(prepared, part, Bulk(template, encoder, max_tokens, max_turns))
        try:
            found = _build_on_disk(folder, blocks, types, key)
        except MachineError as error:
            if error.code != "machine.no-write":
                raise
            console.say(f"{prepared.folder} 不能写入, 词元只留在内存里, 下次要重新分词")
            found = _build_in_memory(blocks, types)
    arrays, dropped = found
    rows = np.arange(len(arrays["offsets"]) - 1)
    if max_samples is not None and max_samples < len(rows):
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:max_samples])
    return TokenStore(arrays, dropped, rows)


class _Groups:
    """Row groups of a part to blocks; goes to other processes, each of which opens the file for itself."""

    def __init__(self, path: Path, bulk: Bulk) -> None:
        self._path = path
        self._bulk = bulk
        self._file: pq.ParquetFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_file": None}

    def __call__(self, number: int) -> Block:
        self._file = self._file or pq.ParquetFile(self._path)
        rows = self._file.read_row_group(number, ["messages", "source"])
        return self._bulk.encode(rows.combine_chunks().to_batches()[0])


def _encode_all(prepared: Prepared, part: Literal["train", "val"], bulk: Bulk) -> Iterator[Block]:
    """The examples of a part, block by block, with a progress bar."""
    count, path = prepared.count(part), prepared.folder / f"{part}.parquet"
    groups = range(pq.read_metadata(path).num_row_groups)
    workers = cores() if count >= MANY else 1
    with console.progress("分词", count) as bar, ordered_map(_Groups(path, bulk), groups, workers) as blocks:
        for block in blocks:
            yield block
            bar.advance(len(block.lengths) + block.dropped)


def _write(blocks: Iterator[Block], files: Mapping[str, IO[bytes]], types: Mapping[str, str]) -> dict[str, int]:
    """Stream the columns into ``files``; returns what was dropped."""

    def put(column: str, values: Any) -> None:
        files[column].write(np.asarray(values).astype(types[column], copy=False).tobytes())

    dropped = tokens = letters = 0
    put("offsets", [0])
    put("source_offsets", [0])
    for block in blocks:
        put("ids", block.ids)
        put("mask", block.mask)
        put("offsets", tokens + np.cumsum(block.lengths))
        put("characters", block.characters)
        put("cut", block.cut)
        put("source_offsets", letters + np.cumsum(block.source_lengths))
        files["sources"].write(block.sources)
        tokens += len(block.ids)
        letters += len(block.sources)
        dropped += block.dropped
    return {NOTHING_LEFT: dropped} if dropped else {}


def _build_on_disk(
    folder: Path, blocks: Iterator[Block], types: Mapping[str, str], key: Mapping[str, Any]
) -> tuple[Arrays, dict[str, int]]:
    """Write the store whole or not at all, then map it.

    Raises: MachineError ``machine.no-write``, ``machine.disk-full``.
    """
    with new_folder(folder, replace=True) as temporary:
        with ExitStack() as stack:
            files = {name: stack.enter_context((temporary / f"{name}.bin").open("wb")) for name in types}
            dropped = _write(blocks, files, types)
        sizes = {name: (temporary / f"{name}.bin").stat().st_size for name in types}
        meta = {"types": dict(types), "sizes": sizes, "dropped": dropped, "key": dict(key)}
        write_json(temporary / "meta.json", meta)
    found = _read(folder)
    if found is None:
        raise MachineError("machine.no-write", "刚写下的词元读不回来", place=str(folder))
    return found


def _build_in_memory(blocks: Iterator[Block], types: Mapping[str, str]) -> tuple[Arrays, dict[str, int]]:
    """The same columns without files."""
    files = {name: io.BytesIO() for name in types}
    dropped = _write(blocks, files, types)
    return {name: np.frombuffer(file.getvalue(), dtype=types[name]) for name, file in files.items()}, dropped


def _read(folder: Path) -> tuple[Arrays, dict[str, int]] | None:
    """The mapped columns and the dropped counts; None when there is no whole store here."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        arrays = {}
        for name, kind in meta["types"].items():
            path = folder / f"{name}.bin"
            if path.stat().st_size != meta["sizes"][name]:
                return None
            empty = meta["sizes"][name] == 0  # an empty file cannot be mapped
            arrays[name] = np.zeros(0, kind) if empty else np.memmap(path, dtype=kind, mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return arrays, dict(meta["dropped"])
