"""LCCC: segmentation is undone exactly, and only an unanswered question is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import lccc
from hantune.data.types import Conversation, Reject, Row

SOLID = st.text(st.characters(exclude_categories=["Z", "C"]), max_size=30)


def read(value: object) -> Conversation | Reject:
    (result,) = lccc.read(Row(value=value, source="a:1"))
    return result


@given(SOLID)
def test_character_segmentation_is_undone(text: str) -> None:
    assert lccc.desegment(" ".join(text)) == text


@given(st.lists(st.text("你好的吗，。！", min_size=1, max_size=4), max_size=9))
def test_word_segmentation_of_chinese_is_undone(words: list[str]) -> None:
    assert lccc.desegment(" ".join(words)) == "".join(words)


@pytest.mark.parametrize(
    ("segmented", "text"),
    [
        ("M a y d a y 的 歌", "Mayday的歌"),
        ("花 了 3 1 万", "花了31万"),
        ("去 吃 … …", "去吃……"),
        ("用 VIP 路线 上网", "用VIP路线上网"),
        ("我 爱 New York 城", "我爱New York城"),
        ("iPhone 5 出 了", "iPhone 5出了"),
        ("没有 T . T 啊", "没有T.T啊"),
        ("Hello, how are you? I am fine.", "Hello, how are you? I am fine."),
        ("没有切分的一句话。", "没有切分的一句话。"),
        ("  前后 有 空格  ", "前后有空格"),
        ("", ""),
    ],
)
def test_examples(segmented: str, text: str) -> None:
    assert lccc.desegment(segmented) == text


def test_only_the_trailing_question_is_cut() -> None:
    for count in range(2, 8):
        found = read([f"{number}" for number in range(count)])
        assert isinstance(found, Conversation)
        assert [message.text for message in found.messages] == [str(number) for number in range(count - count % 2)]
        assert [message.role for message in found.messages] == ["user", "assistant"] * (count // 2)


def test_both_layouts_are_the_same() -> None:
    assert read(["你 好", "好"]) == read({"dialog": ["你 好", "好"]})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["一"], "format.one-turn"),
        (["一", " "], "format.empty-answer"),
        ([" ", "二"], "format.empty-question"),
        ({"dialog": "x"}, "format.unknown-fields"),
        (["一", 2], "format.unknown-fields"),
        (3, "format.unknown-fields"),
    ],
)
def test_rejects(value: object, reason: str) -> None:
    found = read(value)
    assert isinstance(found, Reject)
    assert (found.reason, found.source, found.record) == (reason, "a:1", value)


def test_real_segmentations_agree(shared_data: Path) -> None:
    """The first dialogue of the toy file (by characters) and of the train file (by words) is the same one."""
    toy = json.loads((shared_data / "lccc" / "lccc_toy_split.json").read_bytes())["train"]
    lines = (shared_data / "lccc" / "hub_lines" / "lccc_base_train.jsonl").read_text(encoding="utf-8").splitlines()
    by_words = [[lccc.desegment(text) for text in json.loads(line)] for line in lines]
    by_characters = [[lccc.desegment(text) for text in dialogue] for dialogue in toy]
    shared = [dialogue for dialogue in by_words if dialogue in by_characters]
    assert len(shared) >= 3
    assert all(" " not in text for dialogue in by_characters for text in dialogue)
