"""sharegpt: speakers by their many names; tools and wrong orders are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from tests.data.formats.records import HUMAN, OPENAI, TWO, read, talk


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"conversations": talk(*HUMAN)}, [TWO]),
        ({"conversations": talk(*HUMAN, ("human", "无答"))}, [TWO]),
        ({"conversations": talk(*OPENAI, key="role", text="content")}, [TWO]),
        ({"conversations": talk(("system", "教"), *HUMAN)}, [[("s", "教"), *TWO]]),
        ({"conversations": talk(*HUMAN), "system": "教"}, [[("s", "教"), *TWO]]),
        ({"conversations": talk(("system", ""), *HUMAN)}, [TWO]),
        ({"conversations": talk(*HUMAN[1:])}, ["format.roles"]),
        ({"conversations": talk(*HUMAN[::2])}, ["format.roles"]),
        ({"conversations": talk(*HUMAN[:2], ("system", "教"))}, ["format.roles"]),
        ({"conversations": talk(("alice", "问"))}, ["format.roles"]),
        ({"conversations": talk(("human", "问"), ("function_call", "{}"))}, ["format.tool-turn"]),
        ({"conversations": talk(("human", "问"), ("observation", "x"))}, ["format.tool-turn"]),
        ({"conversations": talk(("human", "问"))}, ["format.one-turn"]),
        ({"conversations": []}, ["format.one-turn"]),
        ({"conversations": ["问"]}, ["format.unknown-fields"]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("sharegpt", value) == expected
