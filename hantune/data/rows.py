"""Records out of text files: JSON in its layouts, CSV and TSV, dialogues and prose, one by one with their places."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from hantune.data import encoding, jsonstream, packed
from hantune.data.container import PARTS, Part
from hantune.data.dataset_info import Layout
from hantune.data.types import Reject, Row
from hantune.errors import DataError
from hantune.log import console

RECORD_CHARACTERS = 2000
"""How much of a broken record is kept to look at."""
LONGEST_LINE = 1 << 26
"""Characters (bytes of UTF-8) after which a line is given up, so that no file fills the memory with one."""
CSV_LINES = 1000
"""A CSV record of more lines than this comes from a quote that nobody closed."""
PARAGRAPH_CHARACTERS = 20_000
"""A paragraph is cut at the line end after this many."""
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file whose kind is known.

    ``container``: lines, array, parts, keyed, values, csv, text, prose, parquet, arrow, arrow-stream, xlsx or prepared.
    ``member``: which file of a zip. ``part``: what the source says all its records are for. ``sample``: ``#500`` or
    ``:0.2`` where only so many are taken; ``name`` ends with it, ``place`` (what records are placed at) does not.
    """

    path: Path
    name: str
    sha256: str
    container: str
    encoding: str
    member: str = ""
    part: Part = None
    sample: str = ""
    layout: Layout | None = None
    seen: packed.Seen = field(default_factory=packed.Seen, compare=False, repr=False)

    @property
    def place(self) -> str:
        return self.name.removesuffix(self.sample)

    def open_bytes(self) -> BinaryIO:
        """The bytes, unpacked."""
        return packed.open_bytes(self.path, self.member, self.seen)

    def open_text(self) -> IO[str]:
        """The text with its own line ends; undecodable bytes are lone surrogates."""
        return encoding.open_text(self.path, self.encoding, self.member, self.seen)


def read_text(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """Each record of a text file with the part that the file itself puts it in."""
    readers = {"lines": _json_lines, "text": _text_lines, "prose": _paragraphs, "csv": _csv_rows}
    if source.container in readers:
        yield from ((None, item) for item in readers[source.container](source))
    else:
        yield from _json_values(source)


def broken(source: str, detail: str, record: Any, reason: str = "source.broken-json") -> Reject:
    """A record that could not be read, cut to a length that can be looked at."""
    if isinstance(record, bytes):
        record = record[: RECORD_CHARACTERS * 4].decode("utf-8", "replace")
    text = str(record)[:RECORD_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return Reject(source=source, reason=reason, detail=detail, record=text)


def raw_lines(source: SourceFile) -> Iterator[bytes | str | None]:
    """Lines as they stand: bytes where they are UTF-8 (orjson wants them), text elsewhere; None for one too long."""
    if not source.encoding.startswith("utf-8"):
        with source.open_text() as text:
            yield from _bounded(text)
        return
    with source.open_bytes() as file:
        if source.encoding == "utf-8-sig":
            file.read(3)
        yield from _bounded(file)


def _bounded(file: Any) -> Iterator[Any]:
    """The lines of a file, None in the stead of one that is too long to be held."""
    for line in iter(partial(file.readline, LONGEST_LINE), file.read(0)):
        if len(line) < LONGEST_LINE or line[-1:] in ("\n", b"\n"):
            yield line
            continue
        while (rest := file.readline(LONGEST_LINE)) and rest[-1:] not in ("\n", b"\n"):
            pass
        yield None


CHUNK = 1 << 19
"""Bytes of lines that are read at once."""


def line_chunks(source: SourceFile) -> Iterator[bytes | list[bytes | None]]:
    """The bytes of a file of UTF-8, whole lines at a time; line by line where one is too long, None in its stead."""
    with source.open_bytes() as file:
        if source.encoding == "utf-8-sig":
            file.read(3)
        while chunk := file.read(CHUNK):
            rest = b"" if chunk.endswith(b"\n") else file.readline(LONGEST_LINE)
            if len(rest) < LONGEST_LINE or rest.endswith(b"\n"):
                yield chunk + rest
                continue
            while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                pass
            yield [*chunk.split(b"\n")[:-1], None]


def too_long(place: str) -> Reject:
    return Reject(
        source=place, reason="source.too-long", detail=f"这一行超过 {LONGEST_LINE >> 20} MB: 多半是整个文件写在了一行里"
    )


def _json_lines(source: SourceFile) -> Iterator[Row | Reject]:
    """One value a line; blank lines are no records."""
    for number, line in enumerate(raw_lines(source), 1):
        place = f"{source.place}:{number}"
        if line is None or line.strip():
            yield parse_line(line, place)


def parse_line(line: bytes | str | None, place: str) -> Row | Reject:
    """The record of one line of JSON; None is a line that was too long to be held."""
    if line is None:
        return too_long(place)
    try:
        return Row(value=jsonstream.parse(line), source=place)
    except jsonstream.BrokenValue as error:
        return broken(place, str(error), line)


def _json_values(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """The elements of one array, of an object's arrays, or of values that follow each other."""
    with source.open_text() as file:
        window = jsonstream.Window(file)
        if source.container == "parts":
            yield from _object_parts(source, window)
            return
        if source.container == "keyed":
            yield from ((None, item) for item in _object_values(source, window))
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
        if not problem and isinstance(key, str) and key in PARTS and window.peek() == "[":
            label = key if PARTS[key] else ""
            yield from ((PARTS[key], item) for item in _elements(source, window, label))
        elif window.peek():
            window.decode()
            _warn_once(f"{source.place}: 字段 {str(key)[:30]!r} 不是训练数据, 没有读")


def _object_values(source: SourceFile, window: jsonstream.Window) -> Iterator[Row | Reject]:
    """The values of ``{"11290": {...}, ...}``, each placed at its line and key."""
    window.peek()
    window.move(window.at + 1)
    while window.peek() not in ("", "}"):
        place = f"{source.place}:{window.line}"
        key, text, problem = window.decode()
        value = None
        if not problem and window.peek() == ":":
            window.move(window.at + 1)
            place += f"#{key}"
            if window.peek():
                value, text, problem = window.decode()
            else:
                problem = "文件到这里就断了"
        if problem:
            yield broken(place, problem, text)
        else:
            yield Row(value=value, source=place)


def _elements(source: SourceFile, window: jsonstream.Window, label: str) -> Iterator[Row | Reject]:
    """The elements of the array here (or the values to the end of the file, where no array begins) as rows, placed at
    their first line, and with their number where that line holds another one."""
    is_array = source.container != "values" and window.peek() == "["
    last_line = window.line if is_array else 0
    window.move(window.at + is_array)
    for number, element in enumerate(window.elements(last_line), 1):
        place = f"{source.place}:{element.line}"
        if not element.is_alone:
            place += f"#{label}.{number}" if label else f"#{number}"
        if element.error:
            yield broken(place, element.error, element.text)
        else:
            yield Row(value=element.value, source=place)
    if is_array and not window.closed:
        _warn_once(f"{source.place}: 文件结尾少了 ], 可能没有下载完整")


def _warn_once(text: str) -> None:
    """A short file is read to its end more than once: to tell its format, then for its records."""
    if text not in console.warnings:
        console.warn(text)


def _text_lines(source: SourceFile) -> Iterator[Row | Reject]:
    """One dialogue a line, its utterances joined by TAB."""
    with source.open_text() as file:
        for number, line in enumerate(_bounded(file), 1):
            place = f"{source.place}:{number}"
            if line is None:
                yield too_long(place)
            elif not line.strip():
                continue
            elif encoding.BROKEN.search(line):
                yield _undecodable(source, place, line)
            else:
                yield Row(value=line.rstrip("\r\n").split("\t"), source=place)


def _paragraphs(source: SourceFile) -> Iterator[Row | Reject]:
    """One paragraph a record, at its first line: up to a blank line, or a line where no blank ones are."""
    with source.open_text() as file:
        head = file.read(1 << 16).replace("\r\n", "\n")
    is_line_each = "\n\n" not in head.strip()
    lines: list[str] = []
    size = start = 0
    with source.open_text() as file:
        for number, line in enumerate(itertools.chain(_bounded(file), [""]), 1):
            if line is None:
                yield too_long(f"{source.place}:{number}")
            elif line.strip():
                start = start if lines else number
                lines.append(line)
                size += len(line)
            if lines and (is_line_each or not line or not line.strip() or size > PARAGRAPH_CHARACTERS):
                text, place = "".join(lines).strip(), f"{source.place}:{start}"
                is_broken = encoding.BROKEN.search(text)
                yield _undecodable(source, place, text) if is_broken else Row(value={"text": text}, source=place)
                lines, size = [], 0


def _undecodable(source: SourceFile, place: str, text: str) -> Reject:
    detail = f"这里有不是 {encoding.NAMES.get(source.encoding, source.encoding)} 的字节"
    return broken(place, detail, text, "source.broken-text")


def _csv_rows(source: SourceFile) -> Iterator[Row | Reject]:
    """One record a row under the names of the header row; all cells are text."""
    with source.open_text() as file:
        lines = (line.replace("\0", "") for line in iter(partial(file.readline, LONGEST_LINE), ""))
        blank, first = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
        delimiter = "\t" if first.count("\t") > first.count(",") else ","
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
        header = _header(source, reader, blank + 1)
        end = reader.line_num
        for cells in _safe_rows(reader):
            begin, end = end, reader.line_num
            place = f"{source.place}:{blank + begin + 1}"
            if isinstance(cells, Reject):
                yield Reject(source=place, reason=cells.reason, detail=cells.detail)
            elif any(cell.strip() for cell in cells):
                yield _csv_row(source, place, header, cells, end - begin)


def _header(source: SourceFile, reader: Any, line: int) -> list[str]:
    """The names of the columns.

    Raises: DataError ``source.broken-csv``.
    """
    try:
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise DataError(
            "source.broken-csv",
            f"列名那一行读不了: {error}",
            place=f"{source.place}:{line}",
            hint="用 Excel 或 WPS 打开, 另存为 CSV (UTF-8)",
        ) from error


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
        return broken(place, detail, ",".join(cells), "source.broken-csv")
    if len(cells) > len(header):
        detail = f"表头有 {len(header)} 列, 这一行有 {len(cells)} 列: 内容里的逗号要用引号括起来"
        return broken(place, detail, ",".join(cells), "source.broken-csv")
    if any(encoding.BROKEN.search(cell) for cell in cells):
        return _undecodable(source, place, ",".join(cells))
    cells = cells + [""] * (len(header) - len(cells))
    return Row(value=dict(zip(header, cells, strict=True)), source=place)
