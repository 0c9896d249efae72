"""Telegram: one chat or all of them, texts as strings and as lists of entities, media, services; written is read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data import jsonstream
from hantune.data.formats import telegram
from hantune.data.formats.common import plain
from hantune.data.formats.logs import read_log
from hantune.data.types import Reject
from tests.data.formats import exports
from tests.data.formats.exports import HU, ME, MEI, said, saved, talk, telegram_chat, telegram_full, texts

LINES = talk((MEI, "周末去吗", 0), (ME, "去\n几点", 60), (MEI, '九点 "老地方"', 5))


@pytest.mark.parametrize("indent", [1, None, 4])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig"])
def test_one_chat(tmp_path: Path, indent: int | None, codec: str) -> None:
    data = json.dumps(telegram_chat(LINES), ensure_ascii=indent is None, indent=indent).encode(codec)
    found = said(saved(tmp_path, "result.json", data))
    assert [(one.sender, one.time, one.text) for one in found] == [
        (f"user{line.who}", line.seconds, line.text) for line in LINES
    ]
    assert [one.is_me for one in found] == [None] * 3
    assert {one.is_group for one in found} == {False}


def test_places_are_lines(tmp_path: Path) -> None:
    found = said(saved(tmp_path, "result.json", exports.telegram(LINES)))
    written = exports.telegram(LINES).decode().split("\n")
    assert [written[int(one.place.split(":")[1]) - 1].strip() for one in found] == ["{"] * 3


def test_a_full_export_knows_its_owner(tmp_path: Path) -> None:
    group = telegram_chat(talk((HU, "喵", 0)), id=88, type="private_supergroup")
    data = telegram_full(telegram_chat(LINES), group, {"name": None, "type": "saved_messages", "id": 9, "messages": []})
    found = said(saved(tmp_path, "result.json", data))
    assert [(one.chat, one.is_me, one.is_group) for one in found] == [
        ("77", False, False), ("77", True, False), ("77", False, False), ("88", False, True),
    ]  # fmt: skip


def message(**fields: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "type": "message",
        "date": "2021-03-05T08:00:00",
        "from": "梅朵",
        "from_id": "user5",
        "text": "",
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": ["看 ", {"type": "link", "text": "http://127.0.0.1"}, {"type": "bold", "text": "这个"}]}, "看 http://127.0.0.1这个"),
        ({"text": []}, "<空消息>"), ({"photo": "(没有下载)", "text": "好看吗"}, "<图片!>"),
        ({"media_type": "voice_message"}, "<语音!>"),
        ({"media_type": "sticker", "file": "a.webp", "sticker_emoji": "🙂"}, "<动画表情>"),
        ({"media_type": "video_file"}, "<视频!>"),
        ({"media_type": "animation", "text": "笑死"}, "笑死"), ({"media_type": "以后才有"}, "<未知!>"),
        ({"file": "a.pdf"}, "<文件>"),
        ({"file": "a.pdf", "text": "计划在这"}, "计划在这"), ({"forwarded_from": "频道", "text": "新闻"}, "<转发!>"),
        ({"poll": {"question": "去吗"}}, "<投票>"), ({"location_information": {"latitude": 1}}, "<位置>"),
        ({"contact_information": {"first_name": "甲"}}, "<名片>"),
        ({"type": "service", "action": "phone_call"}, "<系统通知>"),
    ],
)  # fmt: skip
def test_kinds(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    chat = {"name": "梅朵", "type": "personal_chat", "id": 5, "messages": [message(**fields)]}
    assert texts(saved(tmp_path, "result.json", json.dumps(chat).encode())) == [expected]


@pytest.mark.parametrize(
    ("fields", "sender", "name"),
    [
        ({"from": None}, "user5", ""), ({"from_id": 5}, "user5", "梅朵"), ({"from_id": None}, "梅朵", "梅朵"),
        ({"from_id": "channel7"}, "channel7", "梅朵"),
    ],
)  # fmt: skip
def test_senders(tmp_path: Path, fields: dict[str, Any], sender: str, name: str) -> None:
    chat = {"name": "梅朵", "type": "personal_chat", "id": 5, "messages": [message(text="在", **fields)]}
    (one,) = said(saved(tmp_path, "result.json", json.dumps(chat).encode()))
    assert (one.sender, one.name) == (sender, name)


def test_broken_messages_spoil_only_themselves(tmp_path: Path) -> None:
    chat = {
        "type": "personal_chat",
        "id": 5,
        "messages": [message(text="一"), 7, message(text="二", date="x"), message(text="三")],
    }
    source = saved(tmp_path, "result.json", json.dumps(chat, ensure_ascii=False, indent=1).encode())
    found = [item.reason if isinstance(item, Reject) else item.text for item in read_log(source, "telegram")]
    assert found == ["一", "source.broken-json", "chatlog.bad-time", "三"]


def test_a_torn_file_gives_what_is_there(tmp_path: Path) -> None:
    data = exports.telegram(LINES)
    source = saved(tmp_path, "result.json", data[: data.rindex("九点".encode())])
    items = list(read_log(source, "telegram"))
    assert [getattr(item, "text", "坏") for item in items] == ["周末去吗", "去\n几点", "坏"]


@pytest.mark.parametrize(
    "text", ['{"messages": [{"role": "user"}]}', '[{"type": "personal_chat"}]', '{"train": []}', "你好"]
)
def test_other_json_is_none_of_telegram(text: str) -> None:
    assert telegram.matches(text) is None


@given(
    st.lists(
        st.tuples(st.sampled_from([ME, MEI, HU]), st.text(max_size=12).filter(plain), st.integers(0, 9999)), max_size=5
    ),
    st.lists(st.tuples(st.sampled_from([ME, HU]), st.text(max_size=5).filter(plain), st.integers(0, 9)), max_size=3),
    st.integers(min_value=1, max_value=300),
)
def test_what_is_written_is_read(
    one: list[tuple[str, str, int]], other: list[tuple[str, str, int]], chunk: int
) -> None:
    chats = [talk(*one), talk(*other)]
    data = telegram_full(*(telegram_chat(lines, id=number) for number, lines in enumerate(chats, 1)))
    was, jsonstream.CHUNK = jsonstream.CHUNK, chunk
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = saved(Path(folder), "result.json", data)
            found = list(read_log(source, "telegram"))
    finally:
        jsonstream.CHUNK = was
    assert [(item.chat, item.sender, item.time, item.text) for item in found if not isinstance(item, Reject)] == [
        (str(number), f"user{line.who}", line.seconds, plain(line.text))
        for number, lines in enumerate(chats, 1)
        for line in lines
    ]
