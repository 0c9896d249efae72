"""The values that carry the data's way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hantune.data.types import Conversation, Example, Message, Reject, Rendered, Role, Row, Segment


@pytest.mark.parametrize(
    ("role", "learn", "learned"),
    [
        ("assistant", None, True), ("user", None, False), ("system", None, False),
        ("assistant", False, False), ("user", True, True),
    ],
)  # fmt: skip
def test_answers_are_learned_unless_the_data_say_otherwise(role: Role, learn: bool | None, learned: bool) -> None:
    assert Message(role=role, text="好", learn=learn).is_learned is learned


def test_the_segments_are_the_text() -> None:
    segments = (Segment("<s>", False, True), Segment("问", False), Segment("答", True), Segment("</s>", True, True))
    assert Rendered(segments=segments).text == "<s>问答</s>"
    assert Rendered(segments=()).text == ""


@pytest.mark.parametrize(
    "value",
    [
        Row(value={}, source="a:1"), Reject(source="a:1", reason="format.roles", detail="x"),
        Message(role="user", text="好"), Conversation(messages=()), Rendered(segments=()), Example(ids=(), mask=()),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_no_stage_changes_what_an_earlier_one_made(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        value.another = 1
