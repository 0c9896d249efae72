"""KdConv: messages without roles, speakers in turn."""

from __future__ import annotations

from typing import Any

import pytest

from tests.data.formats.records import ONE, read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"name": "甲", "messages": [{"message": "问"}, {"message": "答", "attrs": []}]}, [ONE]),
        ({"messages": [{"message": "问"}]}, ["format.one-turn"]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("kdconv", value) == expected
