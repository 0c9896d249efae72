"""timed: any table or list of records with a time, a sender and a text, under one of their many names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hantune.data.formats.common import NotText, plain
from hantune.data.formats.said import RECALLED, Said, parse_time, unsaid
from hantune.data.types import Reject, Row

NAME = "timed"
SHAPE = "时间, 发送者, 内容 三列, 如 time,sender,text"
TIMES = (
    "time", "datetime", "timestamp", "date", "sent_at", "created_at", "createtime", "create_time", "时间",
    "日期时间", "发送时间",
    "消息时间", "发言时间", "聊天时间", "日期",
)  # fmt: skip
SENDERS = (
    "sender", "sender_name", "sendername", "from", "speaker", "author", "user", "username", "nickname", "name",
    "who", "发送者",
    "发送人", "发言人", "发言者", "说话人", "发信人", "昵称", "用户", "用户名", "姓名", "联系人",
)  # fmt: skip
TEXTS = (
    "text",
    "content",
    "message",
    "msg",
    "body",
    "内容",
    "消息",
    "消息内容",
    "发言内容",
    "聊天内容",
    "正文",
    "文本",
)
CHATS = ("chat", "session", "room", "group", "chat_id", "session_id", "会话", "群", "群名", "群聊", "聊天", "对话")
ANSWERS = {
    "answer",
    "output",
    "response",
    "completion",
    "conversations",
    "conversation",
    "messages",
    "title",
    "url",
    "回答",
}
"""Fields that a message of a chat has not: the record is something whole."""
IDS = (
    "sender_id",
    "senderid",
    "user_id",
    "from_id",
    "qq",
    "wxid",
    "发送者id",
    "发送人id",
    "账号",
    "号码",
    "qq号",
    "微信号",
)


def columns(value: Any) -> tuple[str, str, str, str | None, str | None] | None:
    """The record's own names of time, sender, text, and of the chat and the sender's id where it has them."""
    if not isinstance(value, Mapping):
        return None
    own = {str(name).strip().lower().replace(" ", "_"): str(name) for name in value}

    def find(names: tuple[str, ...]) -> str | None:
        return next((own[name] for name in names if name in own), None)

    time, sender, text, id = find(TIMES), find(SENDERS), find(TEXTS), find(IDS)
    sender = sender or id
    return (time, sender, text, find(CHATS), id) if time and sender and text else None


def matches(value: Any) -> str | None:
    """Why a record looks like a timed message, or None: it has the three fields, and its time can be read."""
    found = columns(value)
    if not found or ANSWERS & {str(name).lower() for name in value} or parse_time(value[found[0]]) is None:
        return None
    return f"每条有时间 {found[0]}, 发送者 {found[1]}, 内容 {found[2]}"


def bad_time(row: Row, value: Any) -> Reject:
    """The reject for a message whose time cannot be read."""
    detail = f"读不懂的时间: {str(value)[:40]!r} (要像 2024-10-04 11:42:00)"
    return Reject(source=row.source, reason="chatlog.bad-time", detail=detail, record=row.value)


def read(rows: Iterable[Row | Reject]) -> Iterator[Said | Reject]:
    """Every message in the order of the file; records that are none are rejects."""
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        found = columns(row.value)
        if not found:
            yield Reject(
                source=row.source,
                reason="format.unknown-fields",
                detail=f"不像聊天记录: 要有 {SHAPE}",
                record=row.value,
            )
            continue
        try:
            yield _message(row, found)
        except NotText:
            yield Reject(
                source=row.source, reason="format.not-text", detail="内容应当是文字, 这里是列表或对象", record=row.value
            )


def _message(row: Row, names: tuple[str, str, str, str | None, str | None]) -> Said | Reject:
    """One record as a message.

    Raises: NotText.
    """
    time_name, sender, text, chat, id = names
    time = parse_time(row.value[time_name])
    if time is None:
        return bad_time(row, row.value[time_name])
    name = plain(row.value[sender])
    said = Said(
        time=time,
        sender=(plain(row.value[id]) if id else "") or name,
        name=name,
        text=plain(row.value[text]),
        chat=plain(row.value[chat]) if chat else "",
        place=row.source,
    )
    if RECALLED.fullmatch(said.text):
        return unsaid(said, "消息撤回")
    return said if said.text else unsaid(said, "空消息")
