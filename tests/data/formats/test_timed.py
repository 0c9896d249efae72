"""Tables and records with a time, a sender and a text under any of their names."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import timed
from hantune.data.formats.common import plain
from hantune.data.formats.said import Said
from hantune.data.types import Reject, Row
from tests.data.formats import exports
from tests.data.formats.exports import HU, ME, MEI, on, said, saved, table, talk, texts

LINES = on("读书会", talk((MEI, "周末去吗", 0), (ME, "去,\n几点", 60), (HU, "FALSE", 5), (ME, "九点", 5)))


@pytest.mark.parametrize(
    "header",
    [
        "time,sender,text,chat", "时间,发送者,内容,群", "Timestamp,From,Message,Session",
        "发送时间,昵称,消息内容,会话", "Date, Speaker ,Body,Room",
        "日期时间,发言人,正文,群聊", "created_at,nickname,content,group",
    ],
)  # fmt: skip
@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
def test_names_of_the_columns(tmp_path: Path, header: str, codec: str) -> None:
    data = exports.generic(LINES, header).decode("utf-8-sig").encode(codec)
    found = said(saved(tmp_path, "a.csv", data))
    assert [(one.sender, one.time, one.text, one.chat) for one in found] == [
        (line.who, line.seconds, line.text, "读书会") for line in LINES
    ]
    assert [one.place for one in found] == ["a.csv:2", "a.csv:3", "a.csv:5", "a.csv:6"]


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    data = exports.generic_json(LINES)
    assert texts(saved(tmp_path, "a.jsonl", data)) == [line.text for line in LINES]
    array = json.dumps([json.loads(line) for line in data.splitlines()])
    assert texts(saved(tmp_path, "a.json", array.encode())) == [line.text for line in LINES]


def test_an_id_beside_the_name_is_the_sender(tmp_path: Path) -> None:
    data = table(
        "时间,QQ号,昵称,内容", [("2021-3-5 8:00", "1001", "甲", "在"), ("2021-3-5 8:01", "1001", "乙", "不在")]
    )
    assert [(one.sender, one.name) for one in said(saved(tmp_path, "a.csv", data))] == [("1001", "甲"), ("1001", "乙")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"time": "2021-3-5 8:00", "sender": "甲", "text": ""}, "空消息"),
        ({"time": "2021-3-5 8:00", "sender": "甲", "text": "对方撤回了一条消息"}, "消息撤回"),
        ({"time": datetime(2021, 3, 5), "sender": "甲", "text": 5}, ""),
        ({"time": "昨天", "sender": "甲", "text": "好"}, "chatlog.bad-time"),
        ({"time": "2021-3-5 8:00", "sender": "甲", "text": ["好"]}, "format.not-text"),
        ({"time": "2021-3-5 8:00", "text": "好"}, "format.unknown-fields"),
    ],
)
def test_what_is_no_message(value: Any, expected: str) -> None:
    (item,) = timed.read([Row(value=value, source="a.csv:2")])
    assert (item.reason if isinstance(item, Reject) else item.kind) == expected


def test_broken_records_pass_through() -> None:
    broken = Reject(source="a.csv:2", reason="source.broken-csv", detail="坏了")
    assert list(timed.read([broken])) == [broken]


@pytest.mark.parametrize(
    "value",
    [
        {"question": "你好", "answer": "好"},
        {"time": "2021-3-5", "title": "标题", "author": "甲", "content": "文章"},
        {"date": "2021-3-5", "name": "甲", "text": "问", "response": "答"},
        {"text": "只有文字", "time": "2021-3-5"},
        {"time": "早上", "sender": "甲", "text": "好"},
        ["你好", "好"],
    ],
)
def test_other_records_are_no_messages(value: Any) -> None:
    assert timed.matches(value) is None


@given(
    st.lists(
        st.tuples(st.text(min_size=1).filter(plain), st.text().filter(plain), st.integers(0, 2**33)),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_written_is_read(lines: list[tuple[str, str, int]]) -> None:
    rows = [Row(value={"时间": 10**9 + at, "昵称": who, "内容": text}, source="") for who, text, at in lines]
    found = [one for one in timed.read(rows) if isinstance(one, Said)]
    for one, (who, text, at) in zip(found, lines, strict=True):
        assert (one.sender, one.time) == (plain(who), 10**9 + at)
        assert (one.text or one.kind) in (plain(text), "消息撤回")
