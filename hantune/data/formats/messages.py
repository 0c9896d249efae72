"""messages: ``{"messages": [{"role", "content", "weight"?}]}``, or the bare list. This is what hantune writes.

Source: OpenAI's chat fine-tuning format; ``weight`` 0 or 1 says whether an answer is learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import NotText, Turn, conversation, reject, unknown, whole_text
from hantune.data.formats.sharegpt import ROLES, TOOLS
from hantune.data.types import Conversation, Reject, Row

NAME = "messages"
SHAPE = 'messages 字段, 里面是 {"role": "user"|"assistant", "content": ...}'
NEEDS = (("messages",),)


def matches(value: Any) -> str | None:
    """Why a record looks like messages, or None."""
    items = _items(value)
    if not items or not isinstance(items[0], dict) or not {"role", "content"} <= items[0].keys():
        return None
    return "有 messages 字段, 里面是 role 和 content" if isinstance(value, dict) else "每条是一串 role 和 content"


def _items(value: Any) -> list[Any] | None:
    items = value.get("messages") if isinstance(value, dict) else value
    return items if isinstance(items, list) else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The conversation with its learn bits."""
    items = _items(row.value)
    if not items or not all(isinstance(item, dict) for item in items):
        yield unknown(row, NAME, SHAPE)
        return
    turns = []
    for number, item in enumerate(items, 1):
        role = str(item.get("role", "")).strip().lower()
        if role in TOOLS or item.get("tool_calls") or item.get("function_call"):
            yield reject(row, "format.tool-turn", f"第 {number} 句是工具调用 ({role}), 还不能学")
            return
        if role not in ROLES:
            yield reject(row, "format.roles", f"第 {number} 句的 role {role!r} 不认识: 只能是 user, assistant, system")
            return
        try:
            turns.append(Turn(ROLES[role], _content(item.get("content")), _learn(item)))
        except NotText:
            yield reject(row, "format.not-text", f"第 {number} 句的内容不是文字 (图片或其它)")
            return
    if len(turns) == 1 and turns[0].role == "assistant" and items[0].get("learn"):
        yield whole_text(row, turns[0].text)  # what hantune writes for the format text
        return
    yield conversation(row, turns)


def _content(value: Any) -> Any:
    """Text, also from a list of text parts.

    Raises: NotText.
    """
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) and part.get("type") == "text" and "text" in part for part in value):
        raise NotText
    return "".join(str(part["text"]) for part in value)


def _learn(item: dict[str, Any]) -> bool | None:
    """What ``learn`` or ``weight`` says, if either is there."""
    if item.get("learn") is not None:
        return bool(item["learn"])
    return None if item.get("weight") is None else bool(item["weight"])
