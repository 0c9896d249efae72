"""The rules that every conversation keeps, whatever its format."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats.common import Turn, conversation, describe, plain
from hantune.data.types import Conversation, Reject, Row
from tests.data.formats.records import read

TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=6)), max_size=7)


def test_text_is_made_plain() -> None:
    assert read("pairs", {"query": " 一\r\n二\r三\0\x07 ", "response": "\ufeff答\n\n"}) == [
        [("u", "一\n二\n三"), ("a", "答")]
    ]


@given(st.text(max_size=30))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert plain(plain(text)) == plain(text)


@given(TURNS)
def test_what_comes_out_keeps_the_rules_or_names_one(turns: list[tuple[str, str]]) -> None:
    found = conversation(Row(value=turns, source="a:1"), [Turn(*turn) for turn in turns])
    if isinstance(found, Reject):
        assert found.reason.startswith("format.")
        assert found.source == "a:1"
        return
    assert isinstance(found, Conversation)
    roles = [message.role for message in found.messages]
    start = roles[0] == "system"
    assert roles[start:] == ["user", "assistant"] * ((len(roles) - start) // 2)
    assert len(roles) > 1
    assert all(message.text for message in found.messages)


def test_descriptions_are_short() -> None:
    assert describe({str(i): i for i in range(20)}).endswith("7 ...")
    assert describe([]) == "0 项的列表 (第一项: 空)"
    assert len(describe("长" * 500)) < 60
