"""HuatuoGPT: sentences in turn, with or without the marks of question and answer."""

from __future__ import annotations

from typing import Any

import pytest

from hantune.data.formats.huatuo import matches
from tests.data.formats.records import ONE, read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"data": ["问：问\n", "答：答"]}, [ONE]),
        ({"data": ["问: 问", "答:答"]}, [ONE]),
        ({"id": "0", "data": ["问", "答", "还有呢"]}, [ONE]),
        ({"data": ["问：", "答：答"]}, ["format.empty-question"]),
        ({"data": ["问"]}, ["format.unknown-fields"]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("huatuo", value) == expected


@pytest.mark.parametrize("value", [{"data": [["问", "答"]]}, {"data": "问"}, {"data": [1, 2]}, ["问", "答"]])
def test_other_records(value: Any) -> None:
    assert matches(value) is None
