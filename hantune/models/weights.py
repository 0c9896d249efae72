"""Reading weights: tensors and runs of their rows, by position, into memory of their own.

Mapped files would be as fast, but what was touched of them counts as memory of the process: up to the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hantune.models.headers import TensorSpec, read_header, weight_files
from hantune.models.shards import DTYPES

BLOCK_BYTES = 1 << 21
"""Large tensors are worked on in runs of rows of about this size: what was read is still in the processor's cache."""


class Tensors:
    """The tensors of a model folder; its files stay open until the block ends."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, TensorSpec, int]] = {}
        self._files: dict[Path, Any] = {}
        for path in weight_files(folder):
            specs = read_header(path)
            start = path.stat().st_size - sum(spec.num_bytes for spec in specs.values())
            for name, spec in specs.items():
                self._places[name] = path, spec, start
                start += spec.num_bytes

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """What there is, file by file in the files' order."""
        return {name: spec for name, (_, spec, _) in self._places.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """A tensor, or its rows from ``start`` to before ``stop``."""
        path, spec, position = self._places[name]
        shape = spec.shape
        if shape:
            shape = (len(range(*slice(start, stop).indices(shape[0]))), *shape[1:])
            position += start * TensorSpec(spec.dtype, spec.shape[1:]).num_bytes
        buffer = torch.empty(TensorSpec(spec.dtype, shape).num_bytes, dtype=torch.uint8)
        if path not in self._files:
            self._files[path] = path.open("rb", buffering=0)
        self._files[path].seek(position)
        _read_into(self._files[path], buffer)
        return buffer.view(DTYPES[spec.dtype]).reshape(shape)

    def blocks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """The tensor in order: (number of the first row, some rows)."""
        for start, stop in row_blocks(self._places[name][1]):
            yield start, self.read(name, start, stop)


def row_blocks(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """(first row, row behind the last) of the runs of about ``BLOCK_BYTES`` that make up a tensor."""
    count = spec.shape[0] if spec.shape else 1
    step = max(1, BLOCK_BYTES * count // max(1, spec.num_bytes))
    yield from ((start, min(start + step, count)) for start in range(0, count, step))


def _read_into(file: Any, buffer: Tensor) -> None:
    """Fill ``buffer`` from where ``file`` stands; one call of the system reads at most 2 GB."""
    view = buffer.numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise EOFError(f"{file.name} became shorter while it was read")
        view = view[count:]
