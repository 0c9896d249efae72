"""sharegpt: ``conversations`` of ``{"from", "value"}`` or ``{"role", "content"}``.

Source: FastChat and LLaMA-Factory; speakers ``human|user``, ``gpt|assistant``, ``system``, and tools.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, reject, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "sharegpt"
SHAPE = 'conversations 字段, 里面是 {"from": "human"|"gpt", "value": ...}'
NEEDS = (("conversations",),)
ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
TOOLS = frozenset({"observation", "function_call", "function_response", "function", "tool", "tool_call"})


def matches(value: Any) -> str | None:
    """Why a record looks like sharegpt, or None."""
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return None
    if "from" in turns[0] and "value" in turns[0]:
        return "有 conversations 字段, 里面是 from 和 value"
    return "有 conversations 字段, 里面是 role 和 content" if "role" in turns[0] else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The conversation under its speakers' names."""
    items = row.value.get("conversations") if isinstance(row.value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        yield unknown(row, NAME, SHAPE)
        return
    turns = []
    for number, item in enumerate(items, 1):
        speaker = str(item.get("from", item.get("role", ""))).strip().lower()
        if speaker in TOOLS:
            yield reject(row, "format.tool-turn", f"第 {number} 句是工具调用 ({speaker}), 还不能学")
            return
        if speaker not in ROLES:
            yield reject(row, "format.roles", f"第 {number} 句的说话人 {speaker!r} 不认识: 只能是 human, gpt, system")
            return
        turns.append(Turn(ROLES[speaker], item.get("value", item.get("content"))))
    yield conversation(row, turns, row.value.get("system"))
