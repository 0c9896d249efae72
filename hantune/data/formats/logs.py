"""The readers of chat logs: which one fits a file, and the messages it finds.

Two kinds of readers: of text and JSON files, which look at the beginning of the file, and of records, which look at
the first of them. A new one is a file here and a line in ``TEXTS`` or ``RECORDS``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from hantune.data import packed
from hantune.data.formats import qq, telegram, timed, wechat, whatsapp
from hantune.data.formats.said import Said
from hantune.data.rows import SourceFile
from hantune.data.sources import read_rows
from hantune.data.types import Reject, Row
from hantune.errors import DataError


class Found(NamedTuple):
    """Which reader fits a file, and why it is thought to."""

    name: str
    why: str


class TextReader(NamedTuple):
    """``matches(beginning of the file)`` says why or None; ``read(file)`` gives the messages."""

    matches: Callable[[str], str | None]
    read: Callable[[SourceFile], Iterable[Said | Reject]]


class RecordReader(NamedTuple):
    """``matches(record)`` says why or None; ``read(records)`` gives the messages."""

    matches: Callable[[Any], str | None]
    read: Callable[[Iterable[Row | Reject]], Iterable[Said | Reject]]


TEXTS = {module.NAME: TextReader(module.matches, module.read) for module in (qq, whatsapp, telegram)}
RECORDS = {module.NAME: RecordReader(module.matches, module.read) for module in (wechat, timed)}
LOGS = {module.NAME: module.SHAPE for module in (qq, wechat, telegram, whatsapp, timed)}
"""name -> what such a file looks like."""
TEXT = frozenset({"text", "prose"})
JSON = frozenset({"lines", "array", "parts", "keyed", "values"})
NO_TABLE = TEXT | {"parts", "keyed", "prepared"}
"""Containers that hold no list of records, or one that is surely none of messages."""
ROWS = 20
HEAD = 1 << 16
_WINDOW_DATE = r"(?:\d{1,4}[-/.年]\d{1,2}[-/.月]\d{1,4}日?|昨天|今天|前天|星期[一二三四五六日天])"
_WINDOW = re.compile(
    rf"[^\t\n]{{1,40}}[ \u00a0:]{_WINDOW_DATE}[ \u00a0]?(?:[上下]午)? ?\d{{1,2}}:\d\d(?::\d\d)?(?: ?[AaPp][Mm])?"
    rf"|[^\t\n]{{1,40}} (?:[上下]午 ?)?\d{{1,2}}:\d\d:\d\d(?: ?[AaPp][Mm])?"
)


def detect_log(source: SourceFile) -> Found | None:
    """The reader for a file that is a chat log, or None for any other file.

    Raises: DataError ``chatlog.window-copy`` for text copied from the window of a client.
    """
    source = whole(source)
    if source.container in TEXT | JSON:
        head = _head(source)
        for name, reader in TEXTS.items():
            if why := reader.matches(head):
                return Found(name, f"像 {name}: {why}")
        if source.container in TEXT:
            refuse_window_copy(head, source.name)
    return None if source.container in NO_TABLE else _detect_records(source)


def whole(source: SourceFile) -> SourceFile:
    """The file without the sample of it: messages are drawn as conversations, not one by one."""
    return replace(source, sample="", name=source.place)


def _head(source: SourceFile) -> str:
    """The beginning of the file, up to the end of a line."""
    with packed.errors(source.path, source.member), source.open_text() as file:
        return file.read(HEAD) + file.readline(HEAD)


def _detect_records(source: SourceFile) -> Found | None:
    """The reader that fits most of the first records; somebody must have said more than one thing."""
    head = itertools.islice(read_rows(source), ROWS)
    rows = [row for row in head if isinstance(row, Row)]
    for name, reader in RECORDS.items():
        whys = [reader.matches(row.value) for row in rows]
        if any(whys) and sum(map(bool, whys)) * 2 >= len(whys) and (name != timed.NAME or _is_talk(rows)):
            return Found(name, f"像 {name}: {next(filter(None, whys))}")
    return None


def _is_talk(rows: list[Row]) -> bool:
    """Whether few people say much, as in a chat: posts of many authors are none."""
    said = [said for said in timed.read(rows) if isinstance(said, Said)]
    return len({one.sender for one in said}) <= max(2, len(said) * 3 // 4)


def refuse_window_copy(head: str, name: str) -> None:
    """Refuse text that was copied from a client's window: who said what when cannot be told from it safely.

    Raises: DataError ``chatlog.window-copy``.
    """
    written = [(number, line.strip()) for number, line in enumerate(head.split("\n"), 1) if line.strip()]
    headers = [(number, line) for number, line in written if _WINDOW.fullmatch(line)]
    if len(headers) < 2 or len(headers) * 8 < len(written):
        return
    number, line = headers[0]
    raise DataError(
        "chatlog.window-copy",
        f"这是从聊天窗口复制的文字 ({line[:40]}), 不是导出的记录: 缺号码, 分不清谁是谁",
        place=f"{name}:{number}",
        hint="QQ: 消息管理器, 右键联系人, 导出消息记录, 类型选文本文件; 其它软件见 docs/reference/chatlogs.md",
    )


def read_log(source: SourceFile, name: str) -> Iterator[Said | Reject]:
    """The messages of a file in its order, through the reader of that name; broken records are rejects."""
    source = whole(source)
    if name in RECORDS:
        yield from RECORDS[name].read(read_rows(source))
        return
    with packed.errors(source.path, source.member):
        yield from TEXTS[name].read(source)
