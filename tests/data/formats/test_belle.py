"""BELLE: both of its field pairs, and turns written into one field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.data.formats.records import ONE, TWO, read, talk


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"input": "问", "target": "答"}, [ONE]),
        ({"input": "Human: 问\n\nAssistant:\n", "target": "答"}, [ONE]),
        ({"instruction": "Human:问\nAssistant:答\n\nHuman: 再问\nAssistant:", "output": "再答"}, [TWO]),
        ({"instruction": "Human：问\nAssistant：答\nHuman：再问", "input": "", "output": "再答"}, [TWO]),
        ({"instruction": "Human:问\nHuman:再问\nAssistant:", "output": "答"}, ["format.roles"]),
        ({"instruction": "问", "input": "", "output": "答"}, [ONE]),
        ({"id": "1", "conversations": talk(("human", "问"), ("assistant", "答"))}, [ONE]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("belle", value) == expected
