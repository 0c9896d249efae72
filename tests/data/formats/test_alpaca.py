"""alpaca: instruction and input make the question, history comes before it, written-out empties are empty."""

from __future__ import annotations

from typing import Any

import pytest

from tests.data.formats.records import ONE, TWO, read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"instruction": "问", "input": "", "output": "答"}, [ONE]),
        ({"instruction": "问", "output": "答"}, [ONE]),
        ({"instruction": "问", "input": "无输入", "output": "答"}, [ONE]),
        ({"instruction": "问", "input": "<noinput>", "output": "答"}, [ONE]),
        ({"instruction": "问", "input": None, "output": "答"}, [ONE]),
        ({"instruction": "问", "input": "甲", "output": "答"}, [[("u", "问\n甲"), ("a", "答")]]),
        ({"instruction": "", "input": "问", "output": "答"}, [ONE]),
        ({"instruction": "几", "input": "", "output": 5}, [[("u", "几"), ("a", "5")]]),
        ({"instruction": "问", "output": "答", "system": "教"}, [[("s", "教"), *ONE]]),
        ({"instruction": "再问", "output": "再答", "history": [["问", "答"]]}, [TWO]),
        ({"instruction": "问", "output": "答", "history": "x"}, ["format.not-text"]),
        ({"instruction": "问", "output": ""}, ["format.empty-answer"]),
        ({"instruction": "  ", "output": "答"}, ["format.empty-question"]),
        ({"instruction": ["问"], "output": "答"}, ["format.not-text"]),
        ({"instruction": "问", "output": {"a": 1}}, ["format.not-text"]),
        ({"instruction": "Human:问\nAssistant:答\nHuman:再问\nAssistant:", "output": "再答"}, [TWO]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("alpaca", value) == expected
