"""Weights on disk: what safetensors headers and their index say, read without torch and without one weight.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, the header as JSON
``{name: {dtype, shape, data_offsets}}``, then the bytes of all tensors without holes. Several files are tied together
by ``model.safetensors.index.json``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from hantune.errors import ModelError
from hantune.paths import quoted

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER_BYTES = 100_000_000
"""No header is longer: the library's own limit."""

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
LONG_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""What torch calls the dtypes of safetensors."""


class TensorSpec(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Every tensor of one safetensors file, in the file's order, without reading any weight.

    Nothing is allocated before the file proves long enough for what it claims.

    Raises: ModelError ``model.torn-file`` when the file is shorter (or longer) than its header says, or the header is
        none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or 8 + length > size or length > HEADER_BYTES:
            raise _torn(path, f"文件头不完整: 说有 {length:,} 字节, 文件只有 {size:,} 字节")
        text = file.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_distinct)
        entries.pop("__metadata__", None)
        ordered = sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"]))
        specs, end = {}, 0
        for name, entry in ordered:
            specs[name] = _spec(name, entry, end)
            end = entry["data_offsets"][1]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _torn(path, f"文件头读不懂 ({str(error)[:100]})") from error
    if 8 + length + end != size:
        raise _torn(path, f"应有 {8 + length + end:,} 字节, 实有 {size:,} 字节")
    return specs


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ: of two tensors by one name, other readers take this or that."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("同一个名字出现两次")
    return found


def _spec(name: str, entry: dict[str, Any], start: int) -> TensorSpec:
    """One entry of a header, if it lies right behind the one before and is as long as its shape says."""
    spec = TensorSpec(entry["dtype"], tuple(entry["shape"]))
    if spec.dtype not in ITEM_BYTES:
        raise ValueError(f"不认识的精度 {spec.dtype}")
    if not all(type(size) is int and size >= 0 for size in spec.shape):
        raise ValueError(f"{name[:60]} 的形状不是非负整数")
    if entry["data_offsets"] != [start, start + spec.num_bytes]:
        raise ValueError(f"{name[:60]} 的位置和形状对不上")
    return spec


def _torn(path: Path, what: str) -> ModelError:
    return ModelError(
        "model.torn-file",
        f"权重文件不完整: {path.name} {what} (多半是下载或拷贝断了)",
        place=str(path),
        hint=f"删掉它再重新下载或拷贝: rm {quoted(path)}; 然后 hantune model check {quoted(path.parent)}",
    )


def read_index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name, as ``model.safetensors.index.json`` says.

    Raises: ModelError ``model.bad-index`` when it is not such a file, or names files outside ``folder``.
    """
    path = folder / INDEX
    try:
        places = {str(name): str(file) for name, file in json.loads(path.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            "model.bad-index",
            "分片索引读不懂: 不是完整的 JSON, 或者没有 weight_map",
            place=str(path),
            hint=f"重新下载 {INDEX}",
        ) from error
    for file in places.values():
        if not is_plain_name(file):
            raise ModelError(
                "model.bad-index",
                f"分片索引指到了文件夹外面: {file[:100]!r}; 这样的索引不可信, 什么也没有读",
                place=str(path),
                hint=f"从原来的模型重新下载 {INDEX}",
            )
    return places


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is one name in a folder: no way up, no other folder, no drive, nothing unprintable."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:") and name.isprintable()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model in ``folder``, sorted by name; empty when there are none."""
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_index(folder).values()))]
    return [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []


def tensor_places(folder: Path) -> dict[str, tuple[Path, TensorSpec]]:
    """Tensor name -> (file, dtype and shape), for all files of the model."""
    return {name: (path, spec) for path in weight_files(folder) for name, spec in read_header(path).items()}
