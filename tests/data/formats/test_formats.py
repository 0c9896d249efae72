"""Detection says why, or what is nearest; and no record whatever stops a format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import FORMATS, detect, get_format
from hantune.data.types import Conversation, Reject, Row
from hantune.errors import ConfigError, DataError
from tests.data.formats.records import HUMAN, OPENAI, talk


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"instruction": "问", "input": "", "output": "答"}, "alpaca"),
        ({"instruction": "问", "output": "答"}, "alpaca"),
        ({"output": "答", "input": "", "instruction": "问"}, "alpaca"),
        ({"input": "问", "target": "答"}, "belle"),
        ({"instruction": "Human:问\nAssistant:", "output": "答"}, "belle"),
        ({"conversations": talk(("human", "问"), ("assistant", "答"))}, "belle"),
        ({"conversations": talk(*HUMAN)}, "sharegpt"),
        ({"conversations": talk(*OPENAI, key="role", text="content")}, "sharegpt"),
        ({"messages": talk(*OPENAI, key="role", text="content")}, "messages"),
        (talk(*OPENAI, key="role", text="content"), "messages"),
        ({"messages": [{"message": "问"}, {"message": "答"}]}, "kdconv"),
        ({"data": ["问:头疼", "答:休息"]}, "huatuo"),
        ({"messages": talk(("usr", "问"), ("sys", "答"), key="role", text="content")}, "crosswoz"),
        ({"conversation": [{"human": "问", "assistant": "答"}]}, "firefly"),
        ({"id": "1", "summary": "摘要", "dialogue": "甲: 问"}, "samsum"),
        ({"text": "<s>Human: 问\n</s><s>Assistant: 答\n</s>"}, "flagalpha"),
        ({"input": "<s>Human: 问\n</s><s>Assistant: ", "target": "答\n</s>"}, "flagalpha"),
        ({"text": "一段文字"}, "text"),
        ({"prompt": "问", "chosen": "好", "rejected": "坏"}, "preference"),
        ({"instruction": "问", "input": "", "chosen": "好", "rejected": "坏", "output": "好"}, "preference"),
        ({"instruction": "问", "output": "答", "text": "### 整条"}, "alpaca"),
        (["问", "答"], "lccc"),
        ({"dialog": ["问", "答"]}, "lccc"),
        ({"department": "科", "title": "头", "ask": "问", "answer": "答"}, "pairs"),
        ({"问题": "问", "回答": "答"}, "pairs"),
    ],
)
def test_detection(value: Any, name: str) -> None:
    found = detect([Row(value=value, source="a:1")])
    assert found.name == name
    assert found.why.startswith(f"像 {name}: ")


def test_detection_goes_by_the_majority_and_says_so() -> None:
    rows = [Row(value={"question": "问", "answer": "答"}, source="")] * 3 + [Row(value={"x": 1}, source="")]
    assert detect(rows).name == "pairs"
    assert "前 4 条里有 3 条" in detect(rows).why


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        ({"instructions": "问", "outputs": "答"}, "alpaca"),
        ({"conversation": []}, "firefly"),
        ({"message": []}, "messages"),
        ({"quest": "问", "answr": "答"}, "pairs"),
        ([{"speaker": "甲"}], "messages"),
        (["问", 1], "lccc"),
        ("只有文字", "lccc"),
    ],
)
def test_unknown_fields_name_the_nearest_format(value: Any, nearest: str) -> None:
    with pytest.raises(DataError) as caught:
        detect([Row(value=value, source="a.json:1")])
    assert caught.value.code == "format.unknown-fields"
    assert f"最接近的是 {nearest}" in caught.value.message
    assert caught.value.place == "a.json:1"


def test_unknown_format_name() -> None:
    with pytest.raises(ConfigError, match="alpaca") as caught:
        get_format("alpacca")
    assert caught.value.code == "format.unknown-name"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "messages",
                        "role",
                        "content",
                        "conversations",
                        "from",
                        "value",
                        "instruction",
                        "input",
                        "output",
                        "dialog",
                    ]
                    + [
                        "question",
                        "questions",
                        "answer",
                        "history",
                        "weight",
                        "target",
                        "message",
                        "system",
                        "ask",
                        "title",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_record_crashes_any_format(value: Any) -> None:
    for format in FORMATS.values():
        format.matches(value)
        for result in format.read(Row(value=value, source="a:1")):
            assert isinstance(result, Conversation | Reject)
            if isinstance(result, Conversation):
                assert all(message.text for message in result.messages)
                assert result.messages[-1].role == "assistant"
