"""pairs: question and answer under their many names, lists of questions, titles."""

from __future__ import annotations

from typing import Any

import pytest

from tests.data.formats.records import ONE, TWO, read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"query": "问", "response": "答"}, [ONE]),
        ({"question": "问", "answer": "答"}, [ONE]),
        ({"问题": "问", "回答": "答"}, [ONE]),
        ({"ask": "问", "answer": "答"}, [ONE]),
        ({"instruction": "问", "output": "答"}, [ONE]),
        ({"prompt": "问", "completion": "答"}, [ONE]),
        ({" Prompt ": "问", "Response": "答"}, [ONE]),
        ({"query": "再问", "response": "再答", "history": [["问", "答"]]}, [TWO]),
        ({"title": "头", "ask": "问", "answer": "答"}, [[("u", "头\n问"), ("a", "答")]]),
        ({"title": "问", "ask": "问题", "answer": "答"}, [[("u", "问题"), ("a", "答")]]),
        ({"questions": [["问", "再问"]], "answer": "答"}, [ONE, [("u", "再问"), ("a", "答")]]),
        ({"questions": ["问", "再问"], "answers": ["答", "再答"]}, [ONE, TWO[2:]]),
        ({"questions": ["问", ""], "answers": ["答"]}, [ONE, "format.empty-question"]),
        ({"questions": [], "answer": "答"}, ["format.empty-question"]),
        ({"questions": ["问"] * 3, "answers": ["答"] * 2}, ["format.not-text"]),
        ({"question": "问"}, ["format.unknown-fields"]),
    ],
)
def test_records(value: Any, expected: list[Any]) -> None:
    assert read("pairs", value) == expected
