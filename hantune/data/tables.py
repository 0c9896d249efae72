"""Rows out of tables that are no text: Parquet, Arrow (file and stream), Excel workbooks.

A row becomes a dict of its columns, with values that JSON has; its place is its number, as a spreadsheet counts.
"""

from __future__ import annotations

import datetime
import functools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

from hantune.data.packed import check_zip, seekable, wild_values
from hantune.data.types import Reject, Row
from hantune.errors import DataError
from hantune.log import console

ROWS_AT_A_TIME = 1024
MOST_CELLS = 20_000_000
"""A sheet of more cells must hold something in one of twenty."""
_CELL = re.compile(rb'<(?:\w+:)?c [^>]*?\br="([A-Z]{1,3})(\d{1,7})"')


def read_table(path: Path, name: str, kind: str, member: str = "") -> Iterator[Row | Reject]:
    """The rows of a ``parquet``, ``arrow``, ``arrow-stream`` or ``xlsx`` file, streaming but for Excel.

    Raises: DataError ``source.broken-table``.
    """
    with seekable(path, member) as file:
        try:
            yield from _sheet_rows(file, name) if kind == "xlsx" else _arrow_rows(file, name, kind)
        except (pa.ArrowException, CalamineError, UnicodeDecodeError, MemoryError) as error:
            raise _broken(name, error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise _broken(name, error) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # what Rust throws, outside of Exception
                raise
            raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> DataError:
    return DataError(
        "source.broken-table",
        f"表格文件不完整或有坏的字节 ({str(error)[:120].partition(chr(10))[0]})",
        place=name,
        hint="重新下载或重新导出这个文件",
    )


def _batches(file: BinaryIO, kind: str) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        yield from pq.ParquetFile(file).iter_batches(batch_size=ROWS_AT_A_TIME)
    elif kind == "arrow":
        reader = pa.ipc.open_file(file)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(file)


def _arrow_rows(file: BinaryIO, name: str, kind: str) -> Iterator[Row | Reject]:
    """Every row of every batch; one with bytes that are no UTF-8 is a reject of its own."""
    number = 0
    for whole in _batches(file, kind):
        _refuse_wild_offsets(whole)
        for start in range(0, whole.num_rows, ROWS_AT_A_TIME):
            batch = whole.slice(start, ROWS_AT_A_TIME)
            odd = [column.name for column in batch.schema if not _is_plain(column.type)]
            for values in _values(batch):
                number += 1
                place = f"{name}:{number}"
                if isinstance(values, str):
                    yield Reject(source=place, reason="source.broken-text", detail=values)
                    continue
                for column in odd:
                    values[column] = as_json(values[column])
                yield Row(value={column: _turned(value) for column, value in values.items()}, source=place)


def _refuse_wild_offsets(batch: pa.RecordBatch) -> None:
    """Nothing, if the batch can be read without leaving its buffers (Arrow itself trusts a file).

    Raises: pa.ArrowInvalid.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):  # such texts are rejects of their own
                raise


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The batch's rows, or what is wrong with one."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for row in range(batch.num_rows):
        try:
            yield batch.slice(row, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield "这一行有不是 UTF-8 的字节"


def _is_plain(type: pa.DataType) -> bool:
    """Whether the type's values are such as JSON has."""
    if pa.types.is_dictionary(type):
        return _is_plain(type.value_type)
    if pa.types.is_nested(type):
        return all(_is_plain(type.field(place).type) for place in range(type.num_fields))
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return any(test(type) for test in (*texts, *numbers))


def as_json(value: Any) -> Any:
    """``value`` with dates as ISO text, bytes as their number, and everything else that JSON lacks as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def _turned(value: Any) -> Any:
    """``{"from": [...], "value": [...]}``, as older ``datasets`` wrote a list of objects, as that list again."""
    if not isinstance(value, dict) or len(value) < 2 or not all(isinstance(inner, list) for inner in value.values()):
        return value
    if len({len(inner) for inner in value.values()}) != 1:
        return value
    return [dict(zip(value, inner, strict=True)) for inner in zip(*value.values(), strict=True)]


def _sheet_rows(file: BinaryIO, name: str) -> Iterator[Row | Reject]:
    """The rows of the first visible sheet that has any, under the names of its header; the others are named."""
    check_zip(file, name)
    with wild_values(name):
        _refuse_far_cells(file, name)
    book = CalamineWorkbook.from_filelike(file)
    visible = [
        sheet.name
        for sheet in book.sheets_metadata
        if sheet.visible == SheetVisibleEnum.Visible and sheet.typ == SheetTypeEnum.WorkSheet
    ]
    filled = [sheet for title in visible if (sheet := book.get_sheet_by_name(title)).height]
    if not filled:
        raise DataError("source.empty", "工作簿里没有有内容的工作表", place=name, hint="在 Excel 里打开看看, 重新导出")
    if len(filled) > 1:
        others = "、".join(sheet.name for sheet in filled[1:])
        console.warn(f"{name}: 只读第一个工作表 {filled[0].name}, 没有读 {others}; 要读它们请各存成一个文件")
    rows = enumerate(filled[0].iter_rows(), 1)
    header: list[str] = []
    for number, cells in rows:
        texts = [_cell(cell) for cell in cells]
        if not any(texts):
            continue
        if not header:
            header = [text.strip() for text in texts]
            continue
        values = {title: text for title, text in zip(header, texts, strict=False) if title}
        yield Row(value=values, source=f"{name}:{number}")


def _refuse_far_cells(file: BinaryIO, name: str) -> None:
    """Nothing, unless a lone cell far out makes a sheet, which is read as one rectangle, larger than the memory."""
    with zipfile.ZipFile(file) as book:
        for title in book.namelist():
            if not title.startswith("xl/worksheets/sheet"):
                continue
            columns: set[bytes] = set()
            cells = rows = 0
            with book.open(title) as sheet:
                rest = b""
                while block := sheet.read(1 << 20):
                    found = _CELL.findall(rest + block)
                    rest = block[-100:]
                    columns.update(column for column, _ in found)
                    cells += len(found)
                    rows = max([rows, *(int(row) for _, row in found)])
            area = rows * max((_number(column) for column in columns), default=0)
            if area > MOST_CELLS and area > 20 * cells:
                detail = f"工作表有 {rows} 行, 最右到第 {max(columns, key=_number).decode()} 列, 几乎全是空的"
                raise DataError("source.broken-table", detail, place=name, hint="删去末尾空白的行和列, 或另存为 CSV")
    file.seek(0)


def _number(column: bytes) -> int:
    """3 of ``C``, 28 of ``AB``."""
    return functools.reduce(lambda number, letter: number * 26 + letter - 64, column, 0)


def _cell(value: Any) -> str:
    """A cell as text; a whole number has no point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return "TRUE" if value is True else "FALSE" if value is False else str(as_json(value))
