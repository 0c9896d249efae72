"""KdConv: ``{"messages": [{"message"}]}``, speakers in turn from the user on.

Source: thu-coai/KdConv.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "kdconv"
SHAPE = 'messages 字段, 里面是 {"message": ...}'
NEEDS = (("messages",),)


def matches(value: Any) -> str | None:
    """Why a record looks like KdConv, or None."""
    items = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(items, list) or not items:
        return None
    is_kdconv = all(isinstance(item, dict) and "message" in item and "role" not in item for item in items)
    return "有 messages 字段, 里面是 message, 一人一句" if is_kdconv else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The conversation without its knowledge-graph notes."""
    if not matches(row.value):
        yield unknown(row, NAME, SHAPE)
        return
    said = [item["message"] for item in row.value["messages"]]
    yield conversation(row, [Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(said)])
