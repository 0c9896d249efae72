"""What the tests of the formats share: a record read and written down short, and two conversations."""

from __future__ import annotations

from typing import Any

from hantune.data.formats import FORMATS
from hantune.data.types import Conversation, Row


def read(format: str, value: Any) -> list[Any]:
    """[[("user", text), ...] or reason, ...]"""
    return [
        [(message.role[0], message.text) for message in result.messages]
        if isinstance(result, Conversation)
        else result.reason
        for result in FORMATS[format].read(Row(value=value, source="a:1"))
    ]


def talk(*turns: tuple[str, str], key: str = "from", text: str = "value") -> list[dict[str, str]]:
    return [{key: who, text: said} for who, said in turns]


ONE = [("u", "问"), ("a", "答")]
TWO = [*ONE, ("u", "再问"), ("a", "再答")]
HUMAN = [("human", "问"), ("gpt", "答"), ("human", "再问"), ("gpt", "再答")]
OPENAI = [("user", "问"), ("assistant", "答"), ("user", "再问"), ("assistant", "再答")]
