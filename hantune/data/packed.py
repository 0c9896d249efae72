"""The bytes of a file, whatever packs it: gzip and zstd by their first bytes, the members of a zip by its directory.

Nothing is ever written to a name out of an archive. What unpacks to far more than it should is refused: a zip by what
its directory declares (the zip reader gives no byte more), streams by what came out so far.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa

from hantune.errors import DataError
from hantune.paths import disk_errors, quoted

GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
PACKED = (".gz", ".zst", ".zip")
BOMB_BYTES = 1 << 28
BOMB_RATIO = 200
"""Both must be passed: conversations pack 3 to 30 times smaller, and small files may pack as well as they like."""
MAX_MEMBERS = 10_000
DIRECTORY_BYTES = 1 << 24
"""A zip whose directory alone is larger is not even opened: a million entries would fill the memory."""
_END_OF_ZIP = b"PK\x05\x06"
_DRIVE = re.compile(r"[A-Za-z]:")


class _Unpacking(io.RawIOBase):
    """An unpacking stream that counts what comes out, and closes what it reads from."""

    def __init__(self, stream: Any, packed: IO[bytes], place: str) -> None:
        self._stream, self._packed, self._place = stream, packed, place
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._size += len(data)
        if self._size > BOMB_BYTES and self._size > BOMB_RATIO * self._packed.tell():
            raise _unsafe(self._place, f"解出的内容超过压缩文件的 {BOMB_RATIO} 倍, 像是压缩炸弹")
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._packed.close()
        super().close()


@dataclass
class Seen:
    """How many bytes of a file on disk were read."""

    bytes: int = 0


class _Watched(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, seen: Seen) -> None:
        super().__init__(path)
        self._seen = seen

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._seen.bytes += count or 0
        return count


def open_bytes(path: Path, member: str = "", seen: Seen | None = None) -> BinaryIO:
    """The bytes of a file, or of a member of a zip, out of gzip or zstd where their first bytes say so.

    ``seen`` counts what is read of a file that is no zip.

    Raises: DataError ``source.unsafe-archive``, ``source.broken-archive``.
    """
    whole = io.BufferedReader(_Watched(path, seen), 1 << 18) if seen and not member else None
    packed: IO[bytes] = whole or (_open_member(path, member) if member else path.open("rb"))
    head = packed.read(4)
    packed.seek(0)
    stream: Any
    if head.startswith(GZIP):
        stream = gzip.GzipFile(fileobj=packed, mode="rb")
    elif head == ZSTD:
        stream = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
    else:
        return cast(BinaryIO, packed)
    return cast(BinaryIO, io.BufferedReader(_Unpacking(stream, packed, _shown(path, member)), 1 << 18))


def seekable(path: Path, member: str = "") -> BinaryIO:
    """The same bytes in a file that can be read from any place: the file itself, or a nameless temporary one."""
    file = open_bytes(path, member)
    if not member and not isinstance(getattr(file, "raw", None), _Unpacking):
        return file
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with file, disk_errors(Path(tempfile.gettempdir())):
        shutil.copyfileobj(file, spool, 1 << 20)
    spool.seek(0)
    return cast(BinaryIO, spool)


def is_zip(path: Path) -> bool:
    """Whether the first bytes are a zip's (an Excel workbook is one too)."""
    with path.open("rb") as file:
        return file.read(4) == ZIP


def members(path: Path) -> list[str]:
    """The names of a zip's files in order, without what macOS and others add; the whole directory is checked.

    Raises: DataError ``source.unsafe-archive``, ``source.broken-archive``.
    """
    with errors(path), wild_values(str(path)), path.open("rb") as file, _directory(file, str(path)) as archive:
        names = sorted(_checked(archive, str(path)))
    hidden = ("__MACOSX", ".", "~$")
    return [name for name in names if not any(part.startswith(hidden) for part in name.split("/"))]


def check_zip(file: BinaryIO, place: str) -> None:
    """Nothing, for an open zip (a workbook that was packed once more) that is safe to unpack.

    Raises: DataError ``source.unsafe-archive``, ``source.broken-archive``.
    """
    with errors(Path(place)), wild_values(place), _directory(file, place) as archive:
        _checked(archive, place)
    file.seek(0)


@contextlib.contextmanager
def errors(path: Path, member: str = "") -> Iterator[None]:
    """Torn and foreign archives as errors of ours.

    Raises: DataError ``source.broken-gzip``, ``source.broken-archive``.
    """
    place = _shown(path, member)
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        if member:
            raise _broken(place, "压缩包不完整, 多半没有下载完") from error
        raise DataError(
            "source.broken-gzip",
            "压缩文件不完整, 多半没有下载完",
            place=str(path),
            hint=f"重新下载, 然后 gzip -t {quoted(path)}",
        ) from error
    except zipfile.BadZipFile as error:
        raise _broken(place, "压缩包不完整, 多半没有下载完") from error
    except NotImplementedError as error:
        raise _broken(place, "这种压缩方法读不了") from error
    except OSError as error:
        if error.errno is not None or not re.search("ZSTD|compressed stream", str(error)):
            raise
        raise _broken(place, "zstd 压缩文件不完整或有坏的字节") from error


def _open_member(path: Path, member: str) -> IO[bytes]:
    """A member's bytes; the archive closes with it."""
    with wild_values(_shown(path, member)):
        with path.open("rb") as file, _directory(file, str(path)) as archive:
            info = _checked(archive, str(path)).get(member)
        if info is None:
            raise _broken(_shown(path, member), "压缩包里没有这个文件")
        with zipfile.ZipFile(path) as archive:
            return archive.open(info)


@contextlib.contextmanager
def wild_values(place: str) -> Iterator[None]:
    """What Python's zip reader raises for numbers in a directory that make no sense, as an error of ours."""
    try:
        yield
    except (ValueError, OverflowError, struct.error, RuntimeError) as error:
        raise _broken(place, "压缩包的目录坏了") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise _broken(place, "压缩包的目录坏了") from error


def _directory(file: BinaryIO, place: str) -> zipfile.ZipFile:
    """The archive with its directory read, if that is of a reasonable size."""
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(_END_OF_ZIP)
    if at >= 0 and int.from_bytes(tail[at + 12 : at + 16], "little") > DIRECTORY_BYTES:
        raise _unsafe(place, f"压缩包里的文件太多 (最多 {MAX_MEMBERS} 个)")
    return zipfile.ZipFile(file)


def _checked(archive: zipfile.ZipFile, place: str) -> dict[str, zipfile.ZipInfo]:
    """name -> entry of all files, if the directory promises nothing bad."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise _unsafe(place, f"压缩包里有 {len(infos)} 个文件 (最多 {MAX_MEMBERS} 个)")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = _name_of(info)
        if problem := _bad_name(name, info):
            raise _unsafe(f"{place}/{name}", problem)
        if info.is_dir():
            continue
        if name in found:
            raise _unsafe(f"{place}/{name}", "压缩包里有两个同名的文件, 不知道该读哪个")
        if info.flag_bits & 1:
            raise _broken(f"{place}/{name}", "压缩包有密码")
        found[name] = info
    packed, unpacked = sum(info.compress_size for info in infos), sum(info.file_size for info in infos)
    size = archive.fp.seek(0, io.SEEK_END) if archive.fp else 0
    if packed > size:
        raise _unsafe(place, "压缩包里的文件互相重叠, 像是压缩炸弹")
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise _unsafe(place, f"解开有 {unpacked >> 20} MB, 超过压缩包的 {BOMB_RATIO} 倍, 像是压缩炸弹")
    return found


def _name_of(info: zipfile.ZipInfo) -> str:
    """The member's name with slashes; names without the UTF-8 flag come from Chinese Windows more often than not."""
    name = info.filename
    if not info.flag_bits & 0x800:
        raw = name.encode("cp437", "replace")
        for codec in ("utf-8", "gb18030"):
            with contextlib.suppress(UnicodeDecodeError):
                name = raw.decode(codec)
                break
    return name.replace("\\", "/")


def _bad_name(name: str, info: zipfile.ZipInfo) -> str | None:
    """Why an entry's name or kind is not to be trusted."""
    if ".." in name.split("/") or name.startswith("/") or _DRIVE.match(name):
        return "压缩包里的文件名指到压缩包外面去了"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "压缩包里有指向别处的链接"
    return None


def _shown(path: Path, member: str) -> str:
    return f"{path}/{member}" if member else str(path)


def _unsafe(place: str, message: str) -> DataError:
    return DataError(
        "source.unsafe-archive",
        message,
        place=place,
        hint="不要用这个压缩包; 确信没问题就自己解开, 把文件夹交给 hantune",
    )


def _broken(place: str, message: str) -> DataError:
    return DataError(
        "source.broken-archive", message, place=place, hint="重新下载; 或者自己解开, 把解出的文件交给 hantune"
    )
