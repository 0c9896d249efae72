"""CrossWOZ: ``messages`` of ``{"role": "usr"|"sys", "content"}``, where ``sys`` is the side that helps.

Source: thu-coai/CrossWOZ (an object of numbered dialogues; goals, states and acts are not read).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "crosswoz"
SHAPE = 'messages 字段, 里面是 {"role": "usr"|"sys", "content": ...}'
NEEDS = (("messages", "sys-usr"),)
ROLES = {"usr": "user", "sys": "assistant"}


def matches(value: Any) -> str | None:
    """Why a record looks like CrossWOZ, or None."""
    items = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(items, list) or not items:
        return None
    is_crosswoz = all(isinstance(item, dict) and item.get("role") in ("usr", "sys") for item in items)
    return "有 messages 字段, 里面是 usr (用户) 和 sys (助手)" if is_crosswoz else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The dialogue without its annotations."""
    if not matches(row.value):
        yield unknown(row, NAME, SHAPE)
        return
    yield conversation(row, [Turn(ROLES[item["role"]], item.get("content")) for item in row.value["messages"]])
