"""What a file holds, told by its first bytes where they can tell and by its name where they cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from hantune.data import encoding, jsonstream, packed
from hantune.errors import DataError
from hantune.paths import quoted

Part = Literal["train", "val", "test"] | None
"""Which part the file itself assigns a record to; None leaves it to the split."""
TABLES = (".parquet", ".arrow", ".xlsx")
PROSE = (".md", ".markdown")
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", *TABLES)
PARTS: dict[str, Part] = {
    "train": "train", "valid": "val", "validation": "val", "val": "val", "dev": "val", "test": "test",
    "data": None, "rows": None, "RECORDS": None,
}  # fmt: skip
"""Keys of a file-wide object whose arrays are records, and the part they stand for."""
TABLE_MAGIC = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\xff\xff\xff\xff", "arrow-stream"), (packed.ZIP, "xlsx"))
UNPACK = "先解开压缩包, 再把得到的文件或文件夹交给 hantune data prepare"
AGAIN = "下载到的多半是登录页或错误页: 用浏览器打开网址看看, 再下载一次"
MAGIC = (
    (
        b"\xd0\xcf\x11\xe0",
        "旧版 Excel 工作簿 (.xls)",
        "用 Excel 或 WPS 打开, 另存为 .xlsx 或 CSV (UTF-8), 把新文件交给 hantune",
    ),
    (packed.ZIP, "zip 压缩包", UNPACK),
    (b"7z\xbc\xaf", "7z 压缩包", UNPACK),
    (b"Rar!", "rar 压缩包", UNPACK),
    (b"BZh", "bzip2 压缩文件", UNPACK),
    (b"\xfd7zXZ", "xz 压缩文件", UNPACK),
    (b"%PDF", "PDF 文档", "把里面的文字复制到一个 .txt 文件 (UTF-8), 把它交给 hantune"),
    (b"SQLite format 3", "SQLite 数据库", "用软件自己的导出功能得到文本, CSV 或 JSON; hantune 不读软件的数据库"),
    (b"version https://git-lfs", "Git LFS 指针 (数据本身还没有下载)", "在下载的文件夹里运行 git lfs pull, 再来一次"),
    (b"<!DOCTYPE", "网页", AGAIN),
    (b"<!doctype", "网页", AGAIN),
    (b"<html", "网页", AGAIN),
)
"""First bytes -> what it is, what to do with it."""
HEAD_BYTES = 1 << 16


def suffix_of(path: Path) -> str:
    """The suffix that tells the container: ``.jsonl`` of ``a.jsonl.gz``, ``.zip`` of ``a.zip``."""
    inner = Path(path.stem).suffix.lower()
    if path.suffix.lower() in packed.PACKED and (inner or path.suffix.lower() != ".zip"):
        return inner
    return path.suffix.lower()


def head_of(path: Path, name: str, member: str = "") -> bytes:
    """The first bytes of a file that holds something.

    Raises: DataError ``source.empty``.
    """
    with packed.open_bytes(path, member) as file:
        head = file.read(4096)
    if not head.strip(b"\xef\xbb\xbf \t\r\n\0"):
        hint = f"ls -l {quoted(path)}  看看大小, 重新下载或导出"
        raise DataError("source.empty", "文件是空的", place=name, hint=hint)
    return head


def table_of(path: Path, head: bytes, member: str = "") -> str | None:
    """``parquet``, ``arrow``, ``arrow-stream`` or ``xlsx`` by the first bytes, else None."""
    for magic, kind in TABLE_MAGIC:
        if head.startswith(magic):
            return kind if kind != "xlsx" or _is_workbook(path, member) else None
    return None


def _is_workbook(path: Path, member: str) -> bool:
    """Whether a zip is an Excel workbook: inside a zip by its name, else by what lies in it."""
    if member:
        return member.lower().endswith(".xlsx")
    return "xl/workbook.xml" in packed.members(path)


def refuse_foreign(head: bytes, name: str) -> None:
    """Refuse files whose first bytes say that they are no text.

    Raises: DataError ``source.wrong-type``.
    """
    kinds = [(kind, hint) for magic, kind, hint in MAGIC if head.lstrip().startswith(magic)]
    if head[257:262] == b"ustar":
        kinds.append(("tar 归档", UNPACK))
    for kind, hint in kinds[:1]:
        raise DataError("source.wrong-type", f"内容其实是 {kind}, 不是能直接读的文件", place=name, hint=hint)


def container_of(path: Path, codec: str, member: str = "") -> str:
    """``csv``, ``text``, ``prose`` or a JSON layout: by the name where it tells, by the content where it does not.

    Raises: DataError ``source.wrong-type``.
    """
    suffix = suffix_of(Path(member) if member else path)
    if suffix in (".csv", ".tsv"):
        return "csv"
    with encoding.open_text(path, codec, member) as file:
        head = file.read(HEAD_BYTES).lstrip()
        goes_on = bool(file.read(1))
    is_json = suffix in (".json", ".jsonl", ".ndjson")
    if is_json or head[:2] in ('["', "[[", "[{", '{"', "[\n", "[\r", "{\n", "{\r"):
        return _json_layout(head, goes_on, is_lines=suffix in (".jsonl", ".ndjson"))
    if suffix in PROSE:
        return "prose"
    if suffix != ".txt":
        raise DataError(
            "source.wrong-type",
            f"不认识这种文件: {Path(suffix or path.name).name}",
            place=f"{path}/{member}" if member else str(path),
            hint=f"能读 {' '.join(SUFFIXES)} .md, 也可以再压成 {' '.join(packed.PACKED)}",
        )
    return "text" if _is_dialogues(head) else "prose"


def _is_dialogues(head: str) -> bool:
    """Whether a text has one dialogue a line: a TAB stands inside at least half of its lines."""
    lines = [line.strip() for line in head.split("\n") if line.strip()]
    return 2 * sum("\t" in line for line in lines) >= len(lines)


def _json_layout(head: str, goes_on: bool, is_lines: bool) -> str:
    """``lines`` (one value a line), ``array``, ``parts`` (an object of arrays), ``keyed`` (an object of numbered
    objects) or ``values`` (one after another)."""
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
    if re.match(r'\{\s*"\d+"\s*:\s*\{', head):
        return "keyed"
    key = re.match(r'\{\s*"(\w+)"\s*:\s*\[', head)
    return "parts" if key and key[1] in PARTS else otherwise
