"""Rows out of files: which files a name stands for, what they hold by their first bytes, and their records one by one.

Containers: JSON Lines, one JSON array, the LCCC object ``{"train": [...], "valid": [...]}``, CSV and TSV with a header
row, text with one dialogue a line, each also gzipped; a folder of these; a folder that ``data prepare`` wrote.
Records carry ``file:line``; where several share a line, ``file:line#number``.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hantune.data import encoding, jsonstream
from hantune.data.container import PARTS, SUFFIXES, Part, container_of, refuse_foreign, suffix_of
from hantune.data.prepared import is_prepared, open_prepared
from hantune.data.types import Reject, Row
from hantune.errors import DataError
from hantune.log import console
from hantune.paths import TEMPORARY, quoted, sha256_file

RECORD_CHARACTERS = 2000
"""How much of a broken record is kept to look at."""
CSV_LINES = 1000
"""A CSV record of more lines than this comes from a quote that nobody closed."""
csv.field_size_limit(2**31 - 1)


class Place(NamedTuple):
    """A file and the name it has in every ``source``: as the user gave it, without folders that are his alone."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file whose kind is known. ``container``: lines, array, parts, values, csv, text or prepared."""

    path: Path
    name: str
    sha256: str
    container: str
    encoding: str


def expand(given: str) -> list[Place]:
    """The files behind a name: itself, or all data files below a folder in the order of their names.

    Raises: DataError ``source.missing``, ``source.wrong-type``.
    """
    path = Path(given).expanduser()
    name = path.name if path.is_absolute() else path.as_posix()
    if path.is_file() or is_prepared(path):
        return [Place(path, name)]
    if not path.exists():
        raise _missing(path)
    if not path.is_dir():
        raise DataError("source.wrong-type", "这不是普通文件", place=given, hint="先把内容存成一个文件")
    files = sorted(_below(path), key=lambda file: file.relative_to(path).as_posix())
    if not files:
        raise DataError(
            "source.missing",
            f"文件夹里没有数据文件 (能读 {' '.join(SUFFIXES)}, 也可以是 .gz)",
            place=given,
            hint=f"ls {quoted(given)}",
        )
    return [Place(file, f"{name}/{file.relative_to(path).as_posix()}") for file in files]


def _below(folder: Path) -> Iterator[Path]:
    """Data files below a folder, leaving out hidden ones and what hantune wrote there itself."""
    for path in folder.iterdir():
        if path.name.startswith((".", TEMPORARY)):
            continue
        if path.is_dir():
            if not is_prepared(path):
                yield from _below(path)
        elif path.is_file() and suffix_of(path) in SUFFIXES:
            yield path


def _missing(path: Path) -> DataError:
    """The error for a name that is not there, with the names that look like it."""
    folder = path.parent
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f"是不是 {'、'.join(near)}?" if near else f"文件夹 {folder} 里有什么: ls {quoted(folder)}"
    if not folder.is_dir():
        hint = f"文件夹 {folder} 也不存在, 检查路径"
    return DataError("source.missing", f"没有这个文件: {path.name}", place=str(path), hint=hint)


def inspect(place: Place | Path) -> SourceFile:
    """What a file holds, by its first bytes rather than its name.

    Raises: DataError ``source.empty``, ``source.wrong-type``, ``source.encoding``, ``source.broken-gzip``.
    """
    path, name = place if isinstance(place, Place) else (place, place.name)
    if is_prepared(path):
        fingerprint = open_prepared(path).fingerprint
        return SourceFile(path=path, name=name, sha256=fingerprint, container="prepared", encoding="-")
    with _gzip_errors(path):
        refuse_foreign(path, name)
        codec = encoding.sniff(path)
        container = container_of(path, codec)
    return SourceFile(path=path, name=name, sha256=sha256_file(path), container=container, encoding=codec)


@contextlib.contextmanager
def _gzip_errors(path: Path) -> Iterator[None]:
    """A torn gzip file as an error of ours."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            "source.broken-gzip",
            "压缩文件不完整, 多半没有下载完",
            place=str(path),
            hint=f"重新下载, 然后 gzip -t {quoted(path)}",
        ) from error


def read_rows(path: Path | SourceFile) -> Iterator[Row | Reject]:
    """The records of a file but those of its ``test`` part, streaming; broken ones are rejects.

    Raises: DataError ``source.*`` for files that cannot be read at all.
    """
    source = inspect(path) if isinstance(path, Path) else path
    return (item for part, item in read_parts(source) if part != "test")


def read_parts(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """Each record of a file with the part that the file itself puts it in."""
    if source.container == "prepared":
        yield from _prepared_rows(source)
        return
    with _gzip_errors(source.path):
        if source.container == "lines":
            yield from ((None, item) for item in _json_lines(source))
        elif source.container == "text":
            yield from ((None, item) for item in _text_lines(source))
        elif source.container == "csv":
            yield from ((None, item) for item in _csv_rows(source))
        else:
            yield from _json_values(source)


def _broken(source: str, detail: str, record: Any, reason: str = "source.broken-json") -> Reject:
    """A record that could not be read, cut to a length that can be looked at."""
    if isinstance(record, bytes):
        record = record[: RECORD_CHARACTERS * 4].decode("utf-8", "replace")
    text = str(record)[:RECORD_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return Reject(source=source, reason=reason, detail=detail, record=text)


def _raw_lines(source: SourceFile) -> Iterator[bytes | str]:
    """Lines as they stand: bytes where they are UTF-8 (orjson wants them), text elsewhere."""
    if not source.encoding.startswith("utf-8"):
        with encoding.open_text(source.path, source.encoding) as text:
            yield from text
        return
    with encoding.open_bytes(source.path) as file:
        first = file.readline()
        yield first.removeprefix(b"\xef\xbb\xbf")
        yield from file


def _json_lines(source: SourceFile) -> Iterator[Row | Reject]:
    """One value a line; blank lines are no records."""
    for number, line in enumerate(_raw_lines(source), 1):
        if not line.strip():
            continue
        place = f"{source.name}:{number}"
        try:
            yield Row(value=jsonstream.parse(line), source=place)
        except jsonstream.BrokenValue as error:
            yield _broken(place, str(error), line)


def _json_values(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """The elements of one array, of an object's arrays, or of values that follow each other."""
    with encoding.open_text(source.path, source.encoding) as file:
        window = jsonstream.Window(file)
        if source.container == "parts":
            yield from _object_parts(source, window)
            return
        while window.peek():
            yield from ((None, item) for item in _elements(source, window, ""))


def _object_parts(source: SourceFile, window: jsonstream.Window) -> Iterator[tuple[Part, Row | Reject]]:
    """``{"train": [...], "valid": [...]}``; keys that are no part are passed over, and said."""
    window.peek()
    window.move(window.at + 1)
    while window.peek() not in ("", "}"):
        key, _, problem = window.decode()
        if window.peek() == ":":
            window.move(window.at + 1)
        if not problem and key in PARTS and window.peek() == "[":
            label = key if PARTS[key] else ""
            yield from ((PARTS[key], item) for item in _elements(source, window, label))
        elif window.peek():
            window.decode()
            console.warn(f"{source.name}: 字段 {key} 不是训练数据, 没有读")


def _elements(source: SourceFile, window: jsonstream.Window, label: str) -> Iterator[Row | Reject]:
    """The elements of the array here (or the values to the end of the file, where no array begins) as rows, placed at
    their first line, and with their number where that line holds another one."""
    is_array = source.container != "values" and window.peek() == "["
    last_line = window.line if is_array else 0
    window.move(window.at + is_array)
    for number, element in enumerate(window.elements(last_line), 1):
        place = f"{source.name}:{element.line}"
        if not element.is_alone:
            place += f"#{label}.{number}" if label else f"#{number}"
        if element.error:
            yield _broken(place, element.error, element.text)
        else:
            yield Row(value=element.value, source=place)
    if is_array and not window.closed:
        console.warn(f"{source.name}: 文件结尾少了 ], 可能没有下载完整")


def _text_lines(source: SourceFile) -> Iterator[Row | Reject]:
    """One dialogue a line, its utterances joined by TAB."""
    with encoding.open_text(source.path, source.encoding) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{source.name}:{number}"
            if encoding.BROKEN.search(line):
                yield _broken(
                    place,
                    f"这一行有不是 {encoding.NAMES.get(source.encoding, source.encoding)} 的字节",
                    line,
                    "source.broken-text",
                )
            else:
                yield Row(value=line.rstrip("\r\n").split("\t"), source=place)


def _csv_rows(source: SourceFile) -> Iterator[Row | Reject]:
    """One record a row under the names of the header row; all cells are text."""
    with encoding.open_text(source.path, source.encoding) as file:
        lines = (line.replace("\0", "") for line in file)
        blank = 0
        for first in lines:
            if first.strip():
                break
            blank += 1
        delimiter = "\t" if first.count("\t") > first.count(",") else ","
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
        header = [cell.strip() for cell in next(reader)]
        end = reader.line_num
        for cells in _safe_rows(reader):
            begin, end = end, reader.line_num
            place = f"{source.name}:{blank + begin + 1}"
            if isinstance(cells, Reject):
                yield Reject(source=place, reason=cells.reason, detail=cells.detail)
            elif any(cell.strip() for cell in cells):
                yield _csv_row(source, place, header, cells, end - begin)


def _safe_rows(reader: Any) -> Iterator[list[str] | Reject]:
    """The reader's rows; where it fails, a reject in the row's stead."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Reject(source="", reason="source.broken-csv", detail=f"这一行不是完整的 CSV: {error}")


def _csv_row(source: SourceFile, place: str, header: list[str], cells: list[str], lines: int) -> Row | Reject:
    """The cells under their names, or what is wrong with them."""
    if lines > CSV_LINES:
        detail = f"从这里起 {lines} 行连成了一条: 有一个引号没有闭合"
        return _broken(place, detail, ",".join(cells), "source.broken-csv")
    if len(cells) > len(header):
        detail = f"表头有 {len(header)} 列, 这一行有 {len(cells)} 列: 内容里的逗号要用引号括起来"
        return _broken(place, detail, ",".join(cells), "source.broken-csv")
    if any(encoding.BROKEN.search(cell) for cell in cells):
        return _broken(
            place,
            f"这一行有不是 {encoding.NAMES.get(source.encoding, source.encoding)} 的字节",
            ",".join(cells),
            "source.broken-text",
        )
    cells = cells + [""] * (len(header) - len(cells))
    return Row(value=dict(zip(header, cells, strict=True)), source=place)


def _prepared_rows(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """What ``data prepare`` wrote, in its own parts and with its own sources."""
    prepared = open_prepared(source.path)
    parts: Iterable[Literal["train", "val"]] = ("train", "val")
    for part in parts:
        for conversation in prepared.conversations(part):
            messages = [
                {"role": message.role, "content": message.text, "learn": message.is_learned}
                for message in conversation.messages
            ]
            yield part, Row(value={"messages": messages}, source=conversation.source)
