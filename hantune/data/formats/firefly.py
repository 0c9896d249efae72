"""firefly: ``conversation`` of ``{"human", "assistant"}``, a question and its answer an item.

Source: yangjianxin1/Firefly (multi-turn sets such as moss-003-sft).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, fields, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "firefly"
SHAPE = 'conversation 字段, 里面是 {"human": ..., "assistant": ...}'
NEEDS = (("conversation",),)


def matches(value: Any) -> str | None:
    """Why a record looks like firefly, or None."""
    pairs = value.get("conversation") if isinstance(value, dict) else None
    if not isinstance(pairs, list) or not pairs or not fields(pairs[0], "human", "assistant"):
        return None
    return "有 conversation 字段, 里面是 human 和 assistant"


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The pairs one after the other, after the system message if there is one."""
    pairs = row.value.get("conversation") if isinstance(row.value, dict) else None
    if not isinstance(pairs, list) or not all(fields(pair, "human", "assistant") for pair in pairs):
        yield unknown(row, NAME, SHAPE)
        return
    turns = [turn for pair in pairs for turn in (Turn("user", pair["human"]), Turn("assistant", pair["assistant"]))]
    yield conversation(row, turns, row.value.get("system"))
