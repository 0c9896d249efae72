"""Weights on disk: safetensors headers, and a writer that holds one tensor at a time.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, the header as JSON
``{name: {dtype, shape, data_offsets}}``, then the bytes of all tensors without holes. Several files are tied together
by ``model.safetensors.index.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hantune.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 2 * 10**9
"""No file is larger: it fits every file system, and a broken download costs at most this much."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorSpec(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Every tensor of one safetensors file, in the file's order, without reading any weight.

    Raises: ModelError ``model.torn-file`` when the file is shorter (or longer) than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        try:
            if len(start) < 8 or 8 + length > size:
                raise ValueError("header")
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            specs = {name: TensorSpec(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _torn(path, f"文件头不完整, 只有 {size:,} 字节") from error
    if end != size:
        raise _torn(path, f"应有 {end:,} 字节, 实有 {size:,} 字节")
    return dict(sorted(specs.items(), key=lambda item: int(entries[item[0]]["data_offsets"][0])))


def _torn(path: Path, what: str) -> ModelError:
    return ModelError(
        "model.torn-file",
        f"权重文件不完整: {path.name} {what} (多半是下载或拷贝断了)",
        place=str(path),
        hint="删掉这个文件, 重新下载或拷贝它; 然后 hantune model check 文件夹",
    )


def read_index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name, as ``model.safetensors.index.json`` says.

    Raises: ModelError ``model.bad-index`` when it is not such a file.
    """
    path = folder / INDEX
    try:
        return {str(name): str(file) for name, file in json.loads(path.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            "model.bad-index",
            "分片索引读不懂: 不是完整的 JSON, 或者没有 weight_map",
            place=str(path),
            hint=f"重新下载 {INDEX}",
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model in ``folder``, sorted by name; empty when there are none."""
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_index(folder).values()))]
    return [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []


def tensor_places(folder: Path) -> dict[str, tuple[Path, TensorSpec]]:
    """Tensor name -> (file, dtype and shape), for all files of the model."""
    return {name: (path, spec) for path in weight_files(folder) for name, spec in read_header(path).items()}


def write_tensors(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    tensor_of: Callable[[str], Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """The files written. ``tensor_of(name)`` is called once a tensor, in file order, and not kept afterwards."""
    groups = _groups(specs, shard_bytes)
    names = [WEIGHTS] if len(groups) == 1 else [_shard_name(i, len(groups)) for i in range(len(groups))]
    for file_name, group in zip(names, groups, strict=True):
        _write_file(folder / file_name, {name: specs[name] for name in group}, tensor_of, advance)
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


def _write_file(
    path: Path, specs: Mapping[str, TensorSpec], tensor_of: Callable[[str], Tensor], advance: Callable[[int], None]
) -> None:
    """One safetensors file, tensor by tensor."""
    # Wider types first, so that every tensor starts at a multiple of its item size.
    ordered = sorted(specs.items(), key=lambda item: -DTYPES[item[1].dtype].itemsize)
    with path.open("wb") as file:
        file.write(_header(ordered))
        for name, spec in ordered:
            tensor = tensor_of(name)
            if tuple(tensor.shape) != spec.shape or DTYPE_NAMES.get(tensor.dtype) != spec.dtype:
                raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} is not the promised {spec}")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            advance(spec.num_bytes)


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
