"""wechat: the CSV files of four exporters, told apart by their columns. Every cell is text.

``v2`` and ``v1`` (``type_name``, ``is_sender``, ``talker``, ``room_name``; the text in ``msg`` or in the JSON of
``content``), ``stored`` (``Type``, ``SubType``, ``IsSender``, ``StrContent``) and ``listed`` (``Time``, ``SenderName``,
``Talker``, ``Content``). Only files that the user exported himself are read, never a client's database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hantune.data import jsonstream
from hantune.data.formats.common import plain
from hantune.data.formats.said import CUTTING, PASSED, RECALLED, Said, parse_time, unsaid
from hantune.data.formats.timed import bad_time
from hantune.data.types import Reject, Row

NAME = "wechat"
SHAPE = "微信导出的 CSV (type_name, is_sender, talker, room_name, msg, CreateTime 等列)"
ME = "我"
"""The sender of everything that the exporter marked as the user's own."""
COLUMNS = {
    "v2": ("type_name", "is_sender", "msg", "CreateTime"),
    "v1": ("type_name", "is_sender", "content", "CreateTime"),
    "stored": ("Type", "IsSender", "StrContent"),
    "listed": ("Time", "SenderName", "Talker", "Content"),
}
KINDS = {
    "3": "图片", "34": "语音", "37": "添加好友", "42": "名片", "43": "视频", "47": "动画表情", "48": "位置",
    "50": "语音通话",
    "10000": "系统通知", "10002": "系统通知",
    "49.3": "(分享)音乐", "49.4": "(分享)卡片式链接", "49.5": "(分享)卡片式链接", "49.6": "文件",
    "49.8": "用户上传的GIF表情",
    "49.17": "位置共享", "49.19": "合并转发的聊天记录", "49.24": "(分享)笔记", "49.33": "(分享)小程序",
    "49.36": "(分享)小程序",
    "49.50": "(分享)视频号名片", "49.51": "(分享)视频号视频", "49.53": "粘贴的文本", "49.57": "引用回复",
    "49.63": "(分享)视频号视频",
    "49.87": "群公告", "49.2000": "转账", "49.2001": "红包", "49.2003": "红包", "10000.4": "拍一拍",
}  # fmt: skip
"""``Type`` or ``Type.SubType`` -> kind; ``1`` with ``0`` is text."""
LISTED_WORDS = sorted(
    {kind.removeprefix("(分享)") for kind in CUTTING | PASSED} | {"链接", "合并转发", "视频号", "GIF表情", "表情"},
    key=len,
)
_PLACEHOLDER = re.compile(rf"!?\[({'|'.join(reversed(LISTED_WORDS))})(?:[|:][^\]]*)?\](?:\([^()]*\))?")
_ALIASES = {
    "链接": "(分享)卡片式链接", "合并转发": "合并转发的聊天记录", "视频号": "(分享)视频号视频",
    "GIF表情": "用户上传的GIF表情",
    "表情": "动画表情",
}  # fmt: skip
_QUOTE = re.compile(r"\n\[引用\]\s*\([^()\n]*\).*", re.DOTALL)


def matches(value: Any) -> str | None:
    """Why a record looks like one of WeChat's, or None."""
    kind = exporter_of(value)
    return f"有 {', '.join(COLUMNS[kind])} 列" if kind else None


def exporter_of(value: Any) -> str | None:
    """Which of the four wrote this record."""
    if not isinstance(value, Mapping):
        return None
    return next((kind for kind, names in COLUMNS.items() if all(name in value for name in names)), None)


def read(rows: Iterable[Row | Reject]) -> Iterator[Said | Reject]:
    """Every message in the order of the file; records that are none are rejects."""
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        kind = exporter_of(row.value)
        if not kind:
            detail = f"不像微信聊天记录: 要有 {SHAPE}"
            yield Reject(source=row.source, reason="format.unknown-fields", detail=detail, record=row.value)
            continue
        yield READERS[kind]({name: plain(cell) for name, cell in row.value.items()}, row)


def _is_true(cell: str) -> bool:
    return cell.lower() in ("1", "true", "是")


def _named(cells: Mapping[str, str], row: Row) -> Said | Reject:
    """A message of ``v1`` or ``v2``."""
    time = parse_time(cells["CreateTime"])
    if time is None:
        return bad_time(row, cells["CreateTime"])
    text = cells["msg"] if "msg" in cells else _msg_of(cells["content"])
    talker, room = cells.get("talker", ""), cells.get("room_name", "")
    is_me = _is_true(cells["is_sender"])
    said = Said(
        time=time,
        sender=ME if is_me else talker,
        name=talker,
        text=text,
        chat=room,
        place=row.source,
        is_me=is_me,
        is_group=room.endswith("@chatroom") or None,
    )
    if _is_true(cells.get("is_forward", "")):
        return unsaid(said, "转发")
    return judged(said, "" if cells["type_name"] == "文本" else cells["type_name"] or "未知")


def _msg_of(content: str) -> str:
    """The text in the ``content`` of v1: ``{"src": "", "msg": "..."}``, or itself where it is no such JSON."""
    if not content.startswith("{"):
        return content
    try:
        value = jsonstream.parse(content)
    except jsonstream.BrokenValue:
        return content
    message = value.get("msg") if isinstance(value, dict) else None
    return plain(message) if isinstance(message, str | int | float) else content


def _stored(cells: Mapping[str, str], row: Row) -> Said | Reject:
    """A message of the exporter that writes the client's own columns."""
    written = cells.get("CreateTime") or cells.get("StrTime", "")
    time = parse_time(written)
    if time is None:
        return bad_time(row, written)
    is_me = _is_true(cells["IsSender"])
    own = cells.get("Sender") or ME
    name = own if is_me else cells.get("Remark") or cells.get("NickName") or cells.get("Sender", "")
    talker = cells.get("TalkerId", "")
    said = Said(
        time=time,
        sender=ME if is_me else cells.get("Sender") or name,
        name=name,
        text=cells["StrContent"],
        chat=talker,
        place=row.source,
        is_me=is_me,
        is_group=talker.endswith("@chatroom") or None,
    )
    type, subtype = cells["Type"], cells.get("SubType", "0") or "0"
    if (type, subtype) == ("1", "0"):
        return judged(said, "")
    return judged(said, KINDS.get(f"{type}.{subtype}") or KINDS.get(type, "未知"))


def _listed(cells: Mapping[str, str], row: Row) -> Said | Reject:
    """A message of the exporter that names both sides and writes what is no text as ``[图片]``."""
    time = parse_time(cells["Time"])
    if time is None:
        return bad_time(row, cells["Time"])
    is_me = cells["SenderName"] == ME or None
    said = Said(
        time=time,
        sender=ME if is_me else cells.get("Sender") or cells["SenderName"],
        name=cells["SenderName"],
        text=cells["Content"],
        chat=cells["Talker"],
        place=row.source,
        is_me=is_me,
        is_group=cells["Talker"].endswith("@chatroom") or None,
    )
    found = _PLACEHOLDER.fullmatch(said.text)
    return judged(said, _kind_of(found[1]) if found else "")


def _kind_of(word: str) -> str:
    """The kind that a placeholder's word stands for."""
    return _ALIASES.get(word) or (word if word in CUTTING | PASSED else f"(分享){word}")


def judged(said: Said, kind: str) -> Said:
    """The message as text, or as none for its kind; a reply that quotes keeps what it says itself."""
    if RECALLED.fullmatch(said.text):
        return unsaid(said, "消息撤回")
    if kind in ("", "引用回复"):
        body = _QUOTE.sub("", said.text).strip() if "[引用]" in said.text else said.text
        if body != said.text and body:
            return said._replace(text=body)
    if kind:
        return unsaid(said, kind)
    return said if said.text else unsaid(said, "空消息")


READERS: dict[str, Callable[[Mapping[str, str], Row], Said | Reject]] = {
    "v2": _named, "v1": _named, "stored": _stored, "listed": _listed,
}  # fmt: skip
