"""Torch's ``.pth`` and ``.bin`` files, read without unpickling: nothing in them is imported, called or built.

``torch.save`` writes a zip whose members are stored as they are: ``data.pkl``, a pickle that says what the tensors are
called and where they lie, and ``data/KEY``, the bytes of each storage. Here the opcodes of that pickle are walked
(https://docs.python.org/3/library/pickletools.html) and give dicts, tuples, strings and numbers; a global is a name and
nothing more, and a name that describes no dense tensor is refused. ``torch.load(weights_only=True)`` would also do, had
it not been broken twice (CVE-2025-32434, CVE-2026-24747), and its mapped pages count as memory.
"""

from __future__ import annotations

import math
import mmap
import os
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hantune.errors import ModelError
from hantune.models.folder import require_no_pointer
from hantune.models.headers import ITEM_BYTES, TensorSpec
from hantune.models.shards import DTYPES
from hantune.paths import quoted

STORAGES = {
    "torch DoubleStorage": "F64", "torch FloatStorage": "F32", "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16", "torch LongStorage": "I64", "torch IntStorage": "I32", "torch ShortStorage": "I16",
    "torch CharStorage": "I8", "torch ByteStorage": "U8", "torch BoolStorage": "BOOL",
}  # fmt: skip
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
ORDERED = "collections OrderedDict"
NAMES = {TENSOR, PARAMETER, ORDERED, *STORAGES}
"""Every global that a file of tensors needs."""
PICKLE_BYTES = 16_000_000
"""No list of tensors is longer: 70 B parameters take 0.1 MB."""
AHEAD_BYTES = 128 << 20
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip member: signature, lengths of its name and of its extra field."""


class Global(NamedTuple):
    """A name that the pickle wants to use, as ``module name``."""

    name: str


class Storage(NamedTuple):
    """A run of numbers, called ``key`` in the zip."""

    dtype: str
    key: str
    items: int


class Place(NamedTuple):
    """Where one tensor lies: in items from the start of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Items from its first to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))


class PickleFile:
    """The tensors of one file: ``specs`` in the order in which they lie there, read one by one.

    ``on_read`` gets (path, start, bytes) of each tensor that is read. ``is_trusted``: the zip's checksums are not
    compared, for somebody else does as much.

    Raises: ModelError ``model.lfs-pointer``, ``model.torn-file``, ``model.legacy-pickle``, ``model.unsafe-pickle``,
        ``model.bad-pickle``.
    """

    def __init__(self, path: Path) -> None:
        require_no_pointer(path)
        self.path = path
        self.on_read: Callable[[Path, int, memoryview], None] = lambda path, start, view: None
        self.is_trusted = False
        self._file = path.open("rb", buffering=0)
        try:
            self._members = _members(path)
            self._starts = {name: self._start(info) for name, info in self._members.items()}
            places = {name: self._checked(name, value) for name, value in self._table().items()}
        except BaseException:
            self._file.close()
            raise
        in_order = sorted(places, key=lambda name: (self._position(places[name]), places[name].offset))
        self.places: dict[str, Place] = {name: places[name] for name in in_order}
        self.specs = {name: TensorSpec(p.storage.dtype, p.shape) for name, p in self.places.items()}

    def close(self) -> None:
        self._file.close()

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where the bytes of a member begin, if they lie there as they are, all of them."""
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise self._bad(f"{info.filename} 是压缩或加密的; torch.save 写的文件不会这样")
        signature, name_length, extra_length = LOCAL_HEADER.unpack(self._bytes(info.header_offset, LOCAL_HEADER.size))
        start = info.header_offset + LOCAL_HEADER.size + int(name_length) + int(extra_length)
        if signature != b"PK\x03\x04" or start + info.file_size > self.path.stat().st_size:
            raise torn(self.path, f"里面的 {info.filename} 不完整")
        return start

    def _table(self) -> dict[str, Any]:
        """What ``data.pkl`` says: name -> Place, unchecked."""
        info = self._members.get("data.pkl")
        if info is None or info.file_size > PICKLE_BYTES:
            raise self._bad("里面没有张量的目录 (data.pkl), 或者它大得不像目录")
        order = self._members.get("byteorder")
        if order and self._bytes(self._starts["byteorder"], min(order.file_size, 8)) != b"little":
            raise self._bad("数字是大端字节序")
        try:
            table = walk(self._bytes(self._starts["data.pkl"], info.file_size))
        except Unsafe as error:
            raise unsafe(self.path, str(error)) from error
        except (ValueError, IndexError, KeyError, TypeError, struct.error, OverflowError) as error:
            raise self._bad(f"张量的目录读不懂 ({type(error).__name__})") from error
        if not isinstance(table, dict):
            raise self._bad("里面不是一组有名字的张量")
        return table

    def _checked(self, name: str, value: Any) -> Place:
        """A Place whose bytes are all there."""
        if not isinstance(value, Place):
            raise self._bad(f"{name[:60]} 不是普通的 (稠密) 张量")
        (dtype, key, count), offset, shape, stride = value
        info = self._members.get(f"data/{key}")
        numbers = (count, offset, *shape, *stride)
        if info is None or not all(type(number) is int and number >= 0 for number in numbers):
            raise self._bad(f"{name[:60]} 没有存数字, 或者大小不是非负整数")
        if count * ITEM_BYTES[dtype] != info.file_size or len(shape) != len(stride):
            raise self._bad(f"{name[:60]} 说有 {count:,} 个数, 存的却是 {info.file_size:,} 字节")
        if math.prod(shape) > count or offset + value.span > count:
            raise self._bad(f"{name[:60]} 的形状 {shape} 超出了它存的 {count:,} 个数")
        return value

    def _position(self, place: Place) -> int:
        return self._starts[f"data/{place.storage.key}"]

    def read(self, name: str) -> Tensor:
        """One tensor, whose bytes are mapped from the file; the zip's own checksum is compared where the tensor is a
        whole storage.

        A copy would cost as much again as writing does: the bytes once more, and new pages for all of them.

        Raises: ModelError ``model.torn-file`` when the bytes are not those that were written.
        """
        place = self.places[name]
        dtype = DTYPES[place.storage.dtype]
        size = place.span * ITEM_BYTES[place.storage.dtype]
        start = self._position(place) + place.offset * ITEM_BYTES[place.storage.dtype]
        buffer = self._mapped(start, size)
        view = memoryview(buffer.numpy().data)
        if hasattr(os, "posix_fadvise"):  # the disk reads on while these bytes are worked on
            os.posix_fadvise(self._file.fileno(), start + size, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        self.on_read(self.path, start, view)
        info = self._members[f"data/{place.storage.key}"]
        if not self.is_trusted and size == info.file_size and zlib.crc32(view) != info.CRC:
            raise torn(self.path, f"里面的 {name} 和文件自己记的校验和不同")
        if start % dtype.itemsize:
            buffer = buffer.clone()
        return buffer.view(dtype).as_strided(place.shape, place.stride)

    def _mapped(self, start: int, size: int) -> Tensor:
        """Bytes of the file (uint8), which stay in the file until they are looked at."""
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        skip = start % mmap.ALLOCATIONGRANULARITY
        try:  # private: torch wants memory that could be written
            pages = mmap.mmap(self._file.fileno(), skip + size, access=mmap.ACCESS_COPY, offset=start - skip)
        except ValueError as error:
            raise torn(self.path, f"只有 {self.path.stat().st_size:,} 字节") from error
        return torch.frombuffer(pages, dtype=torch.uint8, offset=skip, count=size)

    def _bytes(self, start: int, length: int) -> bytes:
        buffer = bytearray(length)
        self._fill(memoryview(buffer), start)
        return bytes(buffer)

    def _fill(self, view: memoryview, start: int) -> None:
        """Read from ``start`` until ``view`` is full; one call of the system reads at most 2 GB."""
        self._file.seek(start)
        while view:
            count = self._file.readinto(view)
            if not count:
                raise torn(self.path, f"只有 {self.path.stat().st_size:,} 字节")
            view = view[count:]

    def _bad(self, what: str) -> ModelError:
        return ModelError(
            "model.bad-pickle",
            f"{self.path.name} 不是一组普通的张量: {what}",
            place=str(self.path),
            hint="从发布这个模型的地方重新下载它, 最好下载 safetensors 版本",
        )


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of the zip, by their name inside its one folder."""
    if path.stat().st_size == 0:
        raise torn(path, "是空的")
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        raise ModelError(
            "model.legacy-pickle",
            f"{path.name} 不是 torch 1.6 以后写的 zip 格式 (旧的 pickle, 或者根本不是权重), 不打开",
            place=str(path),
            hint="换 safetensors 版本; 信得过来源才在别处用 torch.load 再 torch.save 一次",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, OSError, NotImplementedError) as error:
        raise torn(path, f"只有 {path.stat().st_size:,} 字节, 后面缺了一段") from error
    members = {info.filename.partition("/")[2]: info for info in infos if info.filename.count("/")}
    if len(members) != sum(bool(info.filename.count("/")) for info in infos):
        raise unsafe(path, "同一个名字出现两次")
    return members


def torn(path: Path, what: str) -> ModelError:
    """The error for a file that is not all there."""
    return ModelError(
        "model.torn-file",
        f"权重文件不完整: {path.name} {what} (多半是下载或拷贝断了)",
        place=str(path),
        hint=f"删掉它再重新下载或拷贝: rm {quoted(path)}",
    )


def unsafe(path: Path, what: str) -> ModelError:
    """The error for a pickle that wants more than tensors."""
    return ModelError(
        "model.unsafe-pickle",
        f"{path.name} 里除了张量还有别的东西: {what}; 它也许会运行程序, 所以没有打开",
        place=str(path),
        hint="不要用别的工具打开它; 从官方重新下载, 最好是 safetensors 版本",
    )


class Unsafe(Exception):
    """The pickle does something that tensors do not need."""


def walk(data: bytes) -> Any:
    """What a pickle describes: dicts with text keys, tuples, lists, numbers, texts and Places. Nothing is run.

    Raises: Unsafe; ValueError, IndexError, KeyError, TypeError and struct.error for what is no pickle.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                break
            case "MARK":
                marks.append(stack)
                stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode.name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(opcode.name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "TUPLE":
                items, stack = stack, marks.pop()
                stack.append(tuple(items))
            case "SETITEM" | "APPEND":
                count = 2 if opcode.name == "SETITEM" else 1
                items = stack[-count:]
                del stack[-count:]
                _extend(stack[-1], items)
            case "SETITEMS" | "APPENDS":
                items, stack = stack, marks.pop()
                _extend(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[int(argument)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(argument)])
            case "GLOBAL":
                stack.append(_known(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuild(stack.pop(), arguments))
            case "BUILD":  # the versions of modules that a state dict carries as an attribute
                if type(stack.pop()) is not dict or type(stack[-1]) is not dict:
                    raise Unsafe("给对象设置内部状态")
            case name:
                raise Unsafe(f"pickle 指令 {name}")
    return stack.pop()


def _known(name: str) -> Global:
    if name not in NAMES:
        raise Unsafe(name.replace(" ", ".")[:100])
    return Global(name)


def _extend(target: Any, items: list[Any]) -> None:
    """``items`` put into a dict (text keys only: hashing anything else may take for ever) or a list."""
    if type(target) is list:
        target.extend(items)
        return
    keys, values = items[::2], items[1::2]
    if type(target) is not dict or len(keys) != len(values) or any(type(key) is not str for key in keys):
        raise Unsafe("名字不是文字")
    if any(key in target for key in keys) or len(set(keys)) != len(keys):
        raise Unsafe("同一个名字出现两次")
    target.update(zip(keys, values, strict=True))


def _storage(found: Any) -> Storage:
    kind, storage, key, _, count = found
    if kind != "storage" or type(storage) is not Global or storage.name not in STORAGES or type(key) is not str:
        raise Unsafe("不是存数字的地方")
    return Storage(STORAGES[storage.name], key, count)


def _rebuild(function: Any, arguments: Any) -> Any:
    """What calling a known name would give, described."""
    if type(function) is not Global or type(arguments) is not tuple:
        raise Unsafe("运行一个没有名字的函数")
    if function.name == ORDERED and arguments == ():
        return {}
    if function.name == PARAMETER and type(arguments[0]) is Place:
        return arguments[0]
    if function.name == TENSOR:
        storage, offset, shape, stride, _, _, *metadata = arguments
        if type(storage) is Storage and type(shape) is tuple and type(stride) is tuple and not any(metadata):
            return Place(storage, offset, shape, stride)
    raise Unsafe(f"这样用 {function.name.replace(' ', '.')}")
