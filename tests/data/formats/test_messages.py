"""messages: roles, text parts, and weights that decide what is learned."""

from __future__ import annotations

from typing import Any

import pytest

from hantune.data.formats import FORMATS
from hantune.data.types import Conversation, Row
from tests.data.formats.records import ONE, OPENAI, TWO, read, talk


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"messages": talk(*OPENAI, key="role", text="content")}, [TWO]),
        (talk(*OPENAI, key="role", text="content"), [TWO]),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "问"}]},
                    {"role": "assistant", "content": "答"},
                ]
            },
            [ONE],
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, ["format.not-text"]),
        ({"messages": [{"role": "tool", "content": "x"}]}, ["format.tool-turn"]),
        ({"messages": [{"role": "robot", "content": "x"}]}, ["format.roles"]),
        ({"messages": "x"}, ["format.unknown-fields"]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("messages", value) == expected


def test_weight_decides_what_is_learned() -> None:
    turns = [
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": "答", "weight": 0},
        {"role": "user", "content": "再问"},
        {"role": "assistant", "content": "再答", "weight": 1},
    ]
    (found,) = FORMATS["messages"].read(Row(value={"messages": turns}, source=""))
    assert isinstance(found, Conversation)
    assert [message.is_learned for message in found.messages] == [False, False, False, True]
    assert [message.learn for message in found.messages] == [None, False, None, None]
    assert read("messages", {"messages": turns[:2]}) == ["format.nothing-to-learn"]
