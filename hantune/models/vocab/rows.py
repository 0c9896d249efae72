"""A model with more rows in its embedding and head, written as a stream; nothing else in it changes.

A new row is the mean of the rows of the old pieces that the new one stands for (arXiv:2407.05841 and 2406.14670: as
good as any other beginning).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hantune.errors import ModelError
from hantune.log import console
from hantune.models.adapter import NEW_ROWS
from hantune.models.folder import read_config
from hantune.models.outline import outline, skeleton
from hantune.models.room import require_room
from hantune.models.shards import TensorSpec, write_tensors
from hantune.models.weights import Tensors
from hantune.paths import write_json

Start = Literal["mean", "random", "mean-all"]
STARTS: tuple[Start, ...] = ("mean", "random", "mean-all")
MULTIPLE = 64
"""The number of rows is a multiple of it: matrix products are fastest so (NVIDIA's and torch's advice alike)."""
AT_ONCE = 1024
"""New rows that are computed at a time."""


def padded(rows: int) -> int:
    """The next multiple of 64."""
    return -(-rows // MULTIPLE) * MULTIPLE


def ends_of(folder: Path, tensors: Tensors) -> dict[str, str]:
    """The stored tensors of embedding and head (weights and biases) -> the parameter's name in the model."""
    model = skeleton(folder)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [
        f"{name}.{part}"
        for name, module in model.named_modules()
        if any(module is end for end in ends)
        for part, _ in module.named_parameters(recurse=False)
    ]
    found = ((outline(model).stored(name, tensors.specs), name) for name in names)
    return {stored: name for stored, name in found if stored is not None}


def write_expanded(
    source: Path, out: Path, origins: Sequence[Sequence[int]], first: int, *, start: Start = "mean", seed: int = 0
) -> dict[str, Any]:
    """Weights and config of ``source`` with the rows ``first ...`` for new pieces; returns counts and sizes.

    ``origins``: for each new piece the old ids it stands for. Rows beyond the last piece hold the mean of all.

    Raises: ModelError ``vocab.unsupported``; MachineError ``machine.no-room``.
    """
    config = read_config(source)
    old_rows = int(config.get("vocab_size") or 0)
    if config.get("quantization_config"):
        raise _unfit(source, "模型是量化过的")
    if old_rows < first:
        raise _unfit(source, f"模型的词表只有 {old_rows} 行, 分词器有 {first} 个编号")
    end = first + len(origins)
    rows = max(old_rows, padded(end))
    spread = float(config.get("initializer_range") or 0.02)
    with Tensors(source) as tensors:
        ends = ends_of(source, tensors)
        specs = {
            name: TensorSpec(spec.dtype, (rows, *spec.shape[1:])) if name in ends else spec
            for name, spec in tensors.specs.items()
        }

        def rows_of(name: str) -> Iterator[Tensor]:
            if name not in ends:
                yield from (block for _, block in tensors.blocks(name))
                return
            stored = tensors.read(name)
            average = stored[:first].mean(0, dtype=torch.float32).to(stored.dtype)
            yield stored[:first]
            if start == "mean":
                yield from _means(stored, origins)
            elif start == "mean-all":
                yield average.expand(len(origins), *average.shape)
            else:
                yield _noise(f"{seed}/{ends[name]}", (len(origins), *average.shape), spread).to(stored.dtype)
            yield stored[end:]
            yield average.expand(rows - max(old_rows, end), *average.shape)

        num_bytes = sum(spec.num_bytes for spec in specs.values())
        require_room(num_bytes, out)
        with console.progress("写权重", num_bytes >> 20, unit="MB") as bar:
            files = write_tensors(out, specs, rows_of, advance=_in_megabytes(bar))
        added = num_bytes - sum(spec.num_bytes for spec in tensors.specs.values())
    untaught = (config.get(NEW_ROWS) or [first])[0]  # those of an earlier expansion are still to be learned, too
    write_json(out / "config.json", config | {"vocab_size": rows, NEW_ROWS: [untaught, end]})
    return {"rows": rows, "old_rows": old_rows, "bytes": num_bytes, "bytes_added": added, "files": len(files)}


def _in_megabytes(bar: Any) -> Callable[[int], None]:
    """What tells ``bar`` of bytes written, a whole megabyte at a time."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        bar.advance(((done + count) >> 20) - (done >> 20))
        done += count

    return advance


def _means(stored: Tensor, origins: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Each new row as the mean (float32) of the rows of its old pieces."""
    for begin in range(0, len(origins), AT_ONCE):
        part = origins[begin : begin + AT_ONCE]
        lengths = torch.tensor([len(ids) for ids in part])
        owners = torch.repeat_interleave(torch.arange(len(part)), lengths)
        rows = stored[torch.tensor([token for ids in part for token in ids])].float()
        sums = torch.zeros((len(part), *stored.shape[1:])).index_add_(0, owners, rows)
        yield (sums / lengths.reshape(-1, *[1] * (stored.dim() - 1))).to(stored.dtype)


def _noise(name: str, shape: tuple[int, ...], spread: float) -> Tensor:
    """Normal noise as a new model begins with, fixed by the parameter's name."""
    digest = hashlib.sha256(name.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.empty(shape).normal_(0.0, spread, generator=generator)


def _unfit(folder: Path, what: str) -> ModelError:
    return ModelError(
        "vocab.unsupported",
        f"这个模型的词表不能扩充: {what}",
        place=str(folder),
        hint="用原精度的完整模型, 先检查: hantune model check 文件夹",
    )
