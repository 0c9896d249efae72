"""QQ: the text export of the PC client, one contact or all messages.

UTF-8 with a mark, CRLF between lines, lone CR and LF inside them. A message ends at an empty line that a header, a
block of ``消息分组`` / ``消息对象`` or the end of the file follows; its body may hold empty lines and quoted headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from hantune.data import encoding
from hantune.data.formats.common import plain
from hantune.data.formats.said import (
    LONGEST,
    MARK,
    RECALLED,
    Line,
    Said,
    hour_of,
    joined,
    lines,
    seconds_of,
    unsaid,
)
from hantune.data.rows import SourceFile

NAME = "qq"
SHAPE = "QQ 电脑版导出的文本 (消息管理器, 导出消息记录, 文本文件)"
RECENT = "最近联系人"
"""A list in the shape of a contact: its messages stand under their own contacts as well."""
SYSTEM = frozenset({"10000", "1000000"})
PLACEHOLDERS = (
    "图片", "表情", "语音", "视频", "短视频", "闪照", "动画表情", "QQ红包", "红包", "转账", "动作消息", "文件",
    "位置", "位置共享", "分享",
    "名片", "推荐名片", "音乐", "链接", "收藏", "聊天记录", "合并转发", "戳一戳", "窗口抖动", "魔法表情", "厘米秀",
    "小程序", "群公告",
    "语音通话", "视频通话", "原创表情", "自定义表情", "涂鸦", "礼物", "口令红包", "应用消息", "未知消息",
)  # fmt: skip
TITLE = "消息记录"
_RULE = re.compile("={64}")
_BLOCK = (_RULE, re.compile("消息分组[:\uff1a][\\s\\S]*"), _RULE, re.compile("消息对象[:\uff1a][\\s\\S]*"), _RULE)
"""The five lines at the head of a contact's messages."""
_HEADER = re.compile(
    rf"((?:19|20)\d\d)[-/](\d{{1,2}})[-/](\d{{1,2}}) (?:({MARK}) ?)?(\d{{1,2}}):(\d\d):(\d\d)(?: ({MARK}))?(?: (.*))?",
    re.DOTALL,
)
_SENDER = re.compile(r"(.*?)(?:\((\d{5,12})\)|<([^<>\s]*@[^<>\s]*|\+?[\d-]{5,20})>)", re.DOTALL)
_TITLES = re.compile(r"(?:【[^【】]*】)*")
_PLACEHOLDER = re.compile(rf"\[({'|'.join(PLACEHOLDERS)})\]")


def matches(head: str) -> str | None:
    """Why the beginning of a file looks like an export of QQ, or None."""
    if head.startswith(TITLE) and "不支持重新导入" in head[:100]:
        return "第一行是 消息记录(此消息记录为文本格式 ...)"
    if re.search(r"(?:^|\n)={64}\r?\n消息分组[:\uff1a]", head):
        return "有 消息分组 和 消息对象 的分隔"
    parts = head.split(separator_of(head))
    count = sum(bool(_header(before, line)) for before, line in zip(["", *parts], parts, strict=False))
    return f"有 {count} 个 时间 昵称(号码) 的消息头" if count >= 2 else None


def separator_of(head: str) -> str:
    """What ends the lines: CRLF as QQ writes it, LF where an editor has changed that."""
    return "\r\n" if "\r\n" in head else "\n"


def _header(before: str, line: str) -> tuple[int, str] | None:
    """(time, the rest) of the line that begins a message: one in the shape of a header after an empty line."""
    if before or line[:2] not in ("19", "20"):
        return None
    match = _HEADER.fullmatch(line)
    if not match:
        return None
    year, month, day, early, hour, minute, second, late, rest = match.groups()
    clock = hour_of(int(hour), early or late)
    time = seconds_of(int(year), int(month), int(day), clock, int(minute), int(second))
    return None if time is None else (time, rest or "")


def sender_of(rest: str) -> tuple[str | None, str]:
    """(id or None, nickname) of what stands behind the time; titles as ``【管理员】`` are no part of the name."""
    match = _SENDER.fullmatch(rest)
    if not match:
        return None, rest.strip()
    name = match[1].strip()
    return match[2] or match[3], _TITLES.sub("", name, count=1).strip() if name.startswith("【") else name


@dataclass
class _Reader:
    """Where in the file the reading is: the block, and the message that is being put together."""

    place: str
    chat: str = "/"
    is_recent: bool = False
    block: int = 0
    before: str = ""
    head: list[Line] = field(default_factory=list)
    opened: Line | None = None
    header: tuple[int, str] = (0, "")
    body: list[str] = field(default_factory=list)
    length: int = 0
    done: list[Said] = field(default_factory=list)

    def take(self, line: Line) -> None:
        """One more line; messages that it ends are in ``done``. What may be the head of a block waits for the rest."""
        if self.head and not _BLOCK[len(self.head)].fullmatch(line.text):
            waiting, self.head = self.head, []
            for late in waiting:
                self._take_text(late)
        if not self.head and (self.before or not _BLOCK[0].fullmatch(line.text)):
            self._take_text(line)
            return
        self.head.append(line)
        if len(self.head) == len(_BLOCK):
            self._finish()
            group, object = (self.head[at].text[5:].strip() for at in (1, 3))
            self.chat, self.is_recent = f"{group}/{object}", object == RECENT
            self.block += 1
            self.head, self.before = [], ""

    def _take_text(self, line: Line) -> None:
        """A line of messages: the header of the next, or one of this one's."""
        found = _header(self.before, line.text)
        if found:
            self._finish()
            self.opened, self.header = line, found
        elif self.opened and self.length <= LONGEST:
            self.body.append(line.text)
            self.length += len(line.text)
        self.before = line.text

    def close(self) -> None:
        """What is left at the end of the file."""
        for late in self.head:
            self._take_text(late)
        self._finish()

    def _finish(self) -> None:
        """The message so far, if there is one."""
        if not self.opened:
            return
        time, rest = self.header
        number, name = sender_of(encoding.BROKEN.sub("\ufffd", rest))
        said = Said(
            time=time,
            sender=number or name,
            name=name,
            text=plain(joined(self.body)),
            chat=self.chat,
            place=f"{self.place}:{self.opened.number}",
            is_group=None if number else False,
            block=self.block,
        )
        self.opened, self.body, self.length = None, [], 0
        self.done.append(judged(said, is_recent=self.is_recent))


def judged(said: Said, *, is_recent: bool = False) -> Said:
    """The message with its placeholders taken out; as none where nothing is left, or where it never was text.

    QQ writes ``[图片]`` for stickers as well, so none of its kinds cuts.
    """
    if is_recent:
        return unsaid(said, RECENT, cutting=False)
    if said.sender in SYSTEM or said.name == "系统消息":
        return unsaid(said, "系统通知")
    if encoding.BROKEN.search(said.text):
        return unsaid(said, "乱码", cutting=False)
    if "撤回" in said.text and _is_recall(said):
        return unsaid(said, "消息撤回")
    if "[" in said.text:
        kinds = _PLACEHOLDER.findall(said.text)
        rest = _PLACEHOLDER.sub("", said.text).strip() if kinds else said.text
        if kinds and not rest:
            return unsaid(said, kinds[0], cutting=False)
        said = said._replace(text=rest, inline=len(kinds))
    return said if said.text else unsaid(said, "空消息")


def _is_recall(said: Said) -> bool:
    """Whether the text says that somebody, or the sender under his own name, took a message back."""
    own = said.text.removeprefix(said.name).lstrip()
    return bool(RECALLED.fullmatch(said.text)) or bool(
        said.name and own.startswith("撤回了一条消息") and own != said.text
    )


def read(source: SourceFile) -> Iterator[Said]:
    """Every message in the order of the file; those of a (group, object) that comes twice share their ``chat``."""
    with source.open_text() as file:
        separator = separator_of(file.read(encoding.SAMPLE_BYTES))
    with source.open_text() as file:
        yield from messages(file, separator, source.place)


def messages(file: IO[str], separator: str, place: str) -> Iterator[Said]:
    """The messages of an open file whose lines end with ``separator``."""
    reader = _Reader(place)
    for line in lines(file, separator):
        reader.take(line)
        if reader.done:
            yield from reader.done
            reader.done.clear()
    reader.close()
    yield from reader.done
