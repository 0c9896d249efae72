"""What the readers of chat logs share: one message, its time as a number, and the messages that are no text.

Kinds carry the Chinese names under which exporters and the yield report list them. A kind that cuts ends a
conversation: what comes after it answers something that is not in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import IO, Any, NamedTuple

CHUNK = 1 << 20
LONGEST = 1 << 20
"""Characters of one message that are kept; nobody says more, but a torn file may seem to."""


class Said(NamedTuple):
    """One message of a chat log. ``text`` is empty where ``kind`` says why it is none."""

    time: int
    """Seconds since 1970 on the clock of the log."""
    sender: str
    """The sender's id; his nickname in logs without ids."""
    name: str
    text: str
    chat: str
    """Which conversation partner or group this belongs to."""
    place: str
    """``file:line``."""
    kind: str = ""
    cuts: bool = False
    is_me: bool | None = None
    """Whether the exporter marked the message as the user's own; None where it does not say."""
    is_group: bool | None = None
    block: int = 0
    """The part of the file; a chat may be exported in two, with the same messages in both."""
    inline: int = 0
    """Placeholders taken out of the text."""


CUTTING = frozenset({
    "图片", "视频", "语音", "合并转发的聊天记录", "粘贴的文本", "转发", "未知",
    "(分享)音乐", "(分享)卡片式链接", "(分享)笔记", "(分享)小程序", "(分享)收藏夹", "(分享)视频号名片",
    "(分享)视频号视频",
})  # fmt: skip
"""Kinds that end a conversation."""
PASSED = frozenset({
    "添加好友", "推荐公众号", "动画表情", "用户上传的GIF表情", "位置", "文件", "位置共享", "引用回复", "群公告",
    "转账", "红包",
    "语音通话", "系统通知", "消息撤回", "拍一拍", "邀请加群", "名片", "投票", "空消息",
})  # fmt: skip
"""Kinds that are passed over."""
RECALLED = re.compile(
    r"(?:你|您|对方|[\"“「『].{1,60}?[\"”」』]) ?撤回了一条(?:成员)?消息[\s\S]{0,20}|[\s\S]*<revokemsg>[\s\S]*"
)
"""The whole text of a line that says a message was taken back."""


def cuts(kind: str) -> bool:
    """Whether a kind ends the conversation; one that is not known does."""
    return kind in CUTTING or kind not in PASSED


def unsaid(said: Said, kind: str, *, cutting: bool | None = None) -> Said:
    """The message as one that is no text."""
    return said._replace(text="", kind=kind, cuts=cuts(kind) if cutting is None else cutting)


# ---- times ----------------------------------------------------------------------------------------------------------

MARK = r"[AaPp]\.?[ \u00a0\u202f]?[Mm]\.?|凌晨|清晨|早上|上午|中午|下午|傍晚|晚上"
_AFTERNOON = frozenset({"p", "下午", "傍晚", "晚上"})
_EPOCH = datetime(1970, 1, 1)
_YEAR_FIRST = re.compile(
    r"(\d{4})[-/.年] ?(\d{1,2})[-/.月] ?(\d{1,2})日?(?:(?:,?[Tt\s]+|(?<=日))"
    rf"(?P<before>{MARK})?\s?(\d{{1,2}})[:时](\d{{1,2}})(?:[:分](\d{{1,2}})(?:\.\d+)?)?[分秒]?\s?(?P<after>{MARK})?)?"
    r"\s?(?:Z|[+-]\d\d:?\d\d)?"
)
_NUMBER = re.compile(r"\d{9,13}(?:\.\d+)?")


def hour_of(hour: int, mark: str | None) -> int:
    """The hour of 24 that ``8`` and ``下午`` or ``PM`` name; hours over 12 are what they are."""
    if not mark or hour > 12:
        return hour
    if mark == "中午":
        return hour + 12 if hour < 4 else hour
    is_afternoon = (mark if mark in _AFTERNOON else mark[0].lower()) in _AFTERNOON
    return hour % 12 + 12 * is_afternoon


def seconds_of(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int | None:
    """Seconds since 1970 on the log's own clock, or None for a date or hour that does not exist."""
    try:
        gone = datetime(year, month, day, hour, minute, second) - _EPOCH
    except ValueError:
        return None
    return gone.days * 86400 + gone.seconds


def parse_time(value: Any) -> int | None:
    """Seconds since 1970 of a written time (year first), of an epoch in seconds or milliseconds, or None."""
    if isinstance(value, datetime):
        return seconds_of(value.year, value.month, value.day, value.hour, value.minute, value.second)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        number = int(float(text))
        return number // 1000 if number > 10**11 else number
    match = _YEAR_FIRST.fullmatch(text)
    if not match:
        return None
    year, month, day, _, hour, minute, second, _ = match.groups()
    mark = match["before"] or match["after"]
    return seconds_of(
        int(year), int(month), int(day), hour_of(int(hour or 0), mark), int(minute or 0), int(second or 0)
    )


# ---- text files -----------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line without its end; ``number`` counts LF as editors do, ``end`` is what ended it."""

    number: int
    text: str
    end: str


def lines(file: IO[str], separator: str) -> Iterator[Line]:
    """The lines that end with ``separator`` and nothing else: lone CR, LF and U+2028 stay inside them."""
    number, rest = 1, ""
    while chunk := file.read(CHUNK):
        *whole, rest = (rest + chunk).split(separator)
        for text in whole:
            yield Line(number, text, separator)
            number += 1 + text.count("\n")
    if rest:
        yield Line(number, rest, "")


def joined(parts: Iterable[str], separator: str = "\n") -> str:
    """The lines of a message as one text, up to ``LONGEST`` characters."""
    return separator.join(parts)[:LONGEST]
