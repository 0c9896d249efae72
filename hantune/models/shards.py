"""Writing weights: safetensors files, one tensor in memory at a time. What reads their headers is ``headers.py``."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hantune.models.headers import (
    INDEX,
    LONG_NAMES,
    WEIGHTS,
    TensorSpec,
    read_header,
    read_index,
    tensor_places,
    weight_files,
)

__all__ = [
    "DTYPES", "DTYPE_NAMES", "INDEX", "SHARD_BYTES", "WEIGHTS", "TensorSpec", "read_header", "read_index",
    "tensor_places", "weight_files", "write_tensor_file", "write_tensors",
]  # fmt: skip

SHARD_BYTES = 2 * 10**9
"""No file is larger: it fits every file system, and a broken download costs at most this much."""
AHEAD = 2
"""Pieces that are made before the one before them is written."""

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, long) for name, long in LONG_NAMES.items()}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

TensorOf = Callable[[str], Tensor | Iterable[Tensor]]
"""Gives a whole tensor, or its rows in order in several pieces."""
Advance = Callable[[int], None]


def write_tensor_file(
    path: Path,
    specs: Mapping[str, TensorSpec],
    tensor_of: TensorOf,
    advance: Advance = lambda _: None,
    watch: Callable[[memoryview], None] = lambda _: None,
) -> None:
    """One safetensors file, tensor by tensor. A thread makes the next tensor, another writes the one before.

    ``watch`` sees the bytes of the tensors as they are written.
    """

    def put(data: memoryview) -> None:
        watch(data)
        file.write(data)

    # Wider types first, so that every tensor starts at a multiple of its item size.
    ordered = sorted(specs.items(), key=lambda item: -DTYPES[item[1].dtype].itemsize)
    with path.open("wb") as file, ThreadPoolExecutor(1) as behind:
        waiting: deque[Future[Any]] = deque([behind.submit(file.write, _header(ordered))])
        for (name, spec), found in zip(ordered, _ahead(tensor_of, [name for name, _ in ordered]), strict=True):
            rows = 0
            for piece in [found] if isinstance(found, Tensor) else found:
                rows += piece.shape[0] if spec.shape else 1
                if tuple(piece.shape)[1:] != spec.shape[1:] or DTYPE_NAMES.get(piece.dtype) != spec.dtype:
                    raise ValueError(f"{name}: {piece.dtype} {tuple(piece.shape)} is not the promised {spec}")
                data = piece.contiguous().reshape(-1).view(torch.uint8).numpy().data
                waiting.append(behind.submit(put, data))
                if len(waiting) > AHEAD:
                    waiting.popleft().result()
                advance(piece.nbytes)
            if rows != (spec.shape[0] if spec.shape else 1):
                raise ValueError(f"{name}: {rows} rows are not the promised {spec}")
        for written in waiting:
            written.result()


def _ahead(tensor_of: TensorOf, names: Sequence[str]) -> Iterator[Tensor | Iterable[Tensor]]:
    """The tensors in order, each made while what came before it is dealt with."""
    with ThreadPoolExecutor(1) as maker:
        coming: deque[Future[Tensor | Iterable[Tensor]]] = deque()
        for name in names:
            coming.append(maker.submit(tensor_of, name))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def write_tensors(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    tensor_of: TensorOf,
    *,
    shard_bytes: int = SHARD_BYTES,
    advance: Advance = lambda _: None,
    write: Callable[[Path, Mapping[str, TensorSpec], TensorOf, Advance], None] = write_tensor_file,
) -> list[Path]:
    """The files written. ``tensor_of(name)`` is called once a tensor, in file order, and not kept afterwards.

    ``write`` puts one file there, or finds that an earlier process has done so.
    """
    groups = _groups(specs, shard_bytes)
    names = [WEIGHTS] if len(groups) == 1 else [_shard_name(i, len(groups)) for i in range(len(groups))]
    for file_name, group in zip(names, groups, strict=True):
        write(folder / file_name, {name: specs[name] for name in group}, tensor_of, advance)
    if len(groups) > 1:
        places = {name: file_name for file_name, group in zip(names, groups, strict=True) for name in group}
        total = sum(spec.num_bytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in names]


def _shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _groups(specs: Mapping[str, TensorSpec], limit: int) -> list[list[str]]:
    """Tensor names cut into runs of at most ``limit`` bytes (a larger tensor stands alone)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, spec in specs.items():
        if groups[-1] and filled + spec.num_bytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += spec.num_bytes
    return groups


def _header(ordered: Iterable[tuple[str, TensorSpec]]) -> bytes:
    """Length and JSON of a header, padded with blanks to a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in ordered:
        end = offset + spec.num_bytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
