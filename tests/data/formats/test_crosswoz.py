"""CrossWOZ: sys is the side that helps, not a system message."""

from __future__ import annotations

from tests.data.formats.records import OPENAI, TWO, read, talk

NAMES = {"user": "usr", "assistant": "sys"}


def test_sys_is_the_assistant() -> None:
    turns = talk(*((NAMES[who], text) for who, text in OPENAI), key="role", text="content")
    assert read("crosswoz", {"messages": turns, "goal": [], "sys-usr": [1, 2]}) == [TWO]


def test_faults_are_rejects() -> None:
    assert read("crosswoz", {"messages": [{"role": "usr"}, {"role": "user"}]}) == ["format.unknown-fields"]
    assert read("crosswoz", {"messages": talk(("sys", "答"), key="role", text="content")}) == ["format.roles"]
