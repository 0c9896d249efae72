"""What a file holds, told by its first bytes where they can tell and by its name where they cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from hantune.data import encoding, jsonstream
from hantune.errors import DataError
from hantune.paths import quoted

Part = Literal["train", "val", "test"] | None
"""Which part the file itself assigns a record to; None leaves it to the split."""
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
PARTS: dict[str, Part] = {
    "train": "train", "valid": "val", "validation": "val", "val": "val", "dev": "val", "test": "test",
    "data": None, "rows": None, "RECORDS": None,
}  # fmt: skip
"""Keys of a file-wide object whose arrays are records, and the part they stand for."""
MAGIC = (
    (b"\xd0\xcf\x11\xe0", "旧版 Excel 工作簿 (.xls)"),
    (b"PK\x03\x04", "zip 压缩包或新版 Excel 工作簿 (.xlsx)"),
    (b"PAR1", "Parquet 表格"),
    (b"ARROW1", "Arrow 表格"),
    (b"\x28\xb5\x2f\xfd", "zstd 压缩文件 (.zst)"),
    (b"7z\xbc\xaf", "7z 压缩包"),
    (b"Rar!", "rar 压缩包"),
    (b"BZh", "bzip2 压缩文件"),
    (b"%PDF", "PDF 文档"),
    (b"SQLite format 3", "SQLite 数据库"),
    (b"version https://git-lfs", "Git LFS 指针 (数据本身还没有下载, 用 git lfs pull)"),
    (b"<!DOCTYPE", "网页 (下载到的不是数据, 多半是登录页或错误页)"),
    (b"<html", "网页 (下载到的不是数据, 多半是登录页或错误页)"),
)
HEAD_BYTES = 1 << 16


def suffix_of(path: Path) -> str:
    """The suffix that tells the container: ``.jsonl`` of ``a.jsonl.gz``."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def refuse_foreign(path: Path, name: str) -> None:
    """Refuse files that are empty or whose first bytes say they are something else."""
    with encoding.open_bytes(path) as file:
        head = file.read(4096)
    if not head.strip(b"\xef\xbb\xbf \t\r\n\0"):
        hint = f"ls -l {quoted(path)}  看看大小, 重新下载或导出"
        raise DataError("source.empty", "文件是空的", place=name, hint=hint)
    for magic, true_type in MAGIC:
        if head.lstrip().startswith(magic):
            raise DataError(
                "source.wrong-type",
                f"内容其实是 {true_type}, 不是能直接读的文字文件",
                place=name,
                hint="Excel 请另存为 CSV (UTF-8); 压缩包请先解压; 再把解出的文件交给 hantune data prepare",
            )


def container_of(path: Path, codec: str) -> str:
    """``csv``, ``text`` or one of the JSON layouts: by the name where it tells, by the content where it does not."""
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv"):
        return "csv"
    with encoding.open_text(path, codec) as file:
        head = file.read(HEAD_BYTES).lstrip()
        goes_on = bool(file.read(1))
    if suffix in (".json", ".jsonl", ".ndjson") or head[:2] in ('["', "[[", "[{", '{"', "[\n", "[\r", "{\n", "{\r"):
        return _json_layout(head, goes_on, is_lines=suffix in (".jsonl", ".ndjson"))
    if suffix != ".txt":
        raise DataError(
            "source.wrong-type",
            f"不认识这种文件: {path.suffix or path.name}",
            place=str(path),
            hint=f"能读 {' '.join(SUFFIXES)}, 也可以是 .gz",
        )
    return "text"


def _json_layout(head: str, goes_on: bool, is_lines: bool) -> str:
    """``lines`` (one value a line), ``array``, ``parts`` (an object of arrays) or ``values`` (one after another)."""
    first, newline, rest = head.partition("\n")
    if not newline and goes_on:  # one line longer than the head
        return _opening(head, "lines" if is_lines else "values")
    value = _try_parse(first)
    if value is None:
        others = rest.split("\n")[:50]
        opens_only = first.strip() in ("[", "{", "[{", "[[")
        if not opens_only and (is_lines or any(_try_parse(line) is not None for line in others)):
            return "lines"
        return _opening(head, "values")
    if rest.strip() or isinstance(value, str):
        return "lines"
    if isinstance(value, list) and value:
        is_dialogue = isinstance(value[0], str) or (isinstance(value[0], dict) and "role" in value[0])
        return "lines" if is_dialogue else "array"
    return _opening(head, "lines")


def _try_parse(line: str) -> Any:
    """The value of a line that is a whole array or object, else None."""
    if line.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return jsonstream.parse(line)
    except jsonstream.BrokenValue:
        return None


def _opening(head: str, otherwise: str) -> str:
    """The layout that the first characters promise."""
    if head.startswith("["):
        return "array"
    key = re.match(r'\{\s*"(\w+)"\s*:\s*\[', head)
    return "parts" if key and key[1] in PARTS else otherwise
