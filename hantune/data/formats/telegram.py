"""telegram: the JSON that Telegram Desktop exports, one chat or all of them. Read message by message, never whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hantune.data import jsonstream
from hantune.data.formats.common import plain
from hantune.data.formats.said import CUTTING, Said, parse_time, unsaid
from hantune.data.formats.timed import bad_time
from hantune.data.rows import SourceFile
from hantune.data.types import Reject, Row

NAME = "telegram"
SHAPE = "Telegram 电脑版导出的 JSON (result.json)"
MEDIA = {
    "sticker": "动画表情", "animation": "用户上传的GIF表情", "voice_message": "语音", "video_message": "视频",
    "video_file": "视频",
    "audio_file": "(分享)音乐",
}  # fmt: skip
"""``media_type`` -> kind."""
FIELDS = {
    "forwarded_from": "转发", "forwarded_from_id": "转发", "photo": "图片", "poll": "投票",
    "contact_information": "名片",
    "location_information": "位置", "game_title": "(分享)小程序", "invoice_information": "转账", "file": "文件",
}  # fmt: skip
"""A field that says what else a message is -> kind, the telling one first."""
_CHAT = re.compile(r'"type"\s*:\s*"(?:personal_chat|bot_chat|saved_messages|(?:private|public)_\w+)"')
_MESSAGES = re.compile(r'"(?:messages|date_unixtime|from_id|chats|list)"\s*:')
_FULL = re.compile(r'\{\s*"(?:about|personal_information|chats)"\s*:[\s\S]*?"(?:personal_information|list)"\s*:')


def matches(head: str) -> str | None:
    """Why the beginning of a file looks like an export of Telegram, or None."""
    start = head.lstrip()
    if not start.startswith("{"):
        return None
    if _CHAT.search(start) and _MESSAGES.search(start):
        return "有聊天类型 (personal_chat 等) 和 messages"
    return "是 Telegram 的全部导出 (personal_information, chats)" if _FULL.match(start) else None


def read(source: SourceFile) -> Iterator[Said | Reject]:
    """Every message in the order of the file; of a full export, chat after chat."""
    with source.open_text() as file:
        window = jsonstream.Window(file)
        if window.peek() == "{":
            yield from _Reader(source, window).object(depth=0)


class _Reader:
    """Walks the objects of an export and reads the arrays of messages in them."""

    def __init__(self, source: SourceFile, window: jsonstream.Window) -> None:
        self.source, self.window = source, window
        self.me = ""
        self.chats = 0

    def object(self, depth: int) -> Iterator[Said | Reject]:
        """The messages anywhere in the object that begins here; steps over it."""
        window = self.window
        window.move(window.at + 1)
        facts: dict[str, Any] = {}
        while window.peek() not in ("", "}"):
            key, _, _ = window.decode()
            if window.peek() == ":":
                window.move(window.at + 1)
            opening = window.peek()
            if key == "messages" and opening == "[":
                yield from self.messages(facts)
            elif key in ("chats", "left_chats") and opening == "{":
                yield from self.object(depth + 1)
            elif key == "list" and opening == "[" and depth:
                yield from self.list(depth)
            elif opening not in ("", "}"):
                value, _, _ = window.decode()
                self.note(facts, key, value)
        window.move(window.at + 1)

    def list(self, depth: int) -> Iterator[Said | Reject]:
        """The messages of all chats of the array that begins here."""
        window = self.window
        window.move(window.at + 1)
        while (opening := window.peek()) not in ("", "]"):
            if opening == "{":
                yield from self.object(depth + 1)
            else:
                window.decode()
        window.move(window.at + 1)

    def note(self, facts: dict[str, Any], key: Any, value: Any) -> None:
        """Remember what says which chat this is, and who exported it."""
        if key in ("name", "type", "id") and isinstance(value, str | int):
            facts[key] = value
        elif key == "personal_information" and isinstance(value, dict) and value.get("user_id"):
            self.me = f"user{value['user_id']}"

    def messages(self, facts: dict[str, Any]) -> Iterator[Said | Reject]:
        """The messages of the array that begins here."""
        window = self.window
        self.chats += 1
        chat = str(facts.get("id") or facts.get("name") or self.chats)
        type = facts.get("type")
        is_group = None if type is None else type not in ("personal_chat", "bot_chat", "saved_messages")
        last = window.line
        window.move(window.at + 1)
        for number, element in enumerate(window.elements(last), 1):
            place = f"{self.source.place}:{element.line}" + ("" if element.is_alone else f"#{number}")
            if element.error or not isinstance(element.value, dict):
                detail = element.error or "这里应当是一条消息"
                yield Reject(source=place, reason="source.broken-json", detail=detail, record=element.text[:2000])
            else:
                yield self.message(element.value, chat, is_group, place)

    def message(self, value: dict[str, Any], chat: str, is_group: bool | None, place: str) -> Said | Reject:
        """One message of an export."""
        time = parse_time(value.get("date_unixtime") or value.get("date"))
        if time is None:
            return bad_time(Row(value=value, source=place), value.get("date"))
        name = plain(_text(value.get("from") or value.get("actor") or ""))
        sender = str(value.get("from_id") or value.get("actor_id") or name)
        sender = f"user{sender}" if sender.isdigit() else sender
        said = Said(
            time=time,
            sender=sender,
            name=name,
            text=plain(_text(value.get("text", ""))),
            chat=chat,
            place=place,
            is_me=sender == self.me if self.me else None,
            is_group=is_group,
        )
        return judged(said, value)


def _text(value: Any) -> str:
    """The text of a message: a string, or a list of strings and of ``{"type": "bold", "text": "..."}``."""
    if isinstance(value, list):
        return "".join(_text(item) for item in value)
    if isinstance(value, dict):
        return _text(value.get("text", ""))
    return value if isinstance(value, str) else ""


def judged(said: Said, value: dict[str, Any]) -> Said:
    """The message as text, or as none for its kind; a file or sticker with words to it is text."""
    if value.get("type", "message") != "message":
        return unsaid(said, "系统通知")
    kind = next((FIELDS[name] for name in ("forwarded_from", "forwarded_from_id", "photo") if value.get(name)), "")
    if not kind and value.get("media_type"):
        kind = MEDIA.get(str(value["media_type"]), "未知")
    kind = kind or next((FIELDS[name] for name in FIELDS if value.get(name)), "")
    if kind and (kind in CUTTING or not said.text):
        return unsaid(said, kind)
    return said if said.text else unsaid(said, "空消息")
