"""WeChat: four exporters, quoted line ends, kinds that cut and kinds that pass, quotes, recalls; written is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import wechat
from hantune.data.formats.common import plain
from hantune.data.formats.said import Said
from hantune.data.formats.wechat import KINDS, LISTED_WORDS
from hantune.data.types import Row
from tests.data.formats import exports
from tests.data.formats.exports import HU, ME, MEI, STORED, V2, Line, on, said, saved, table, talk, texts

WRITERS = [exports.wechat_v2, exports.wechat_v1, exports.wechat_stored, exports.wechat_listed]
ROOM = "12345@chatroom"


@pytest.mark.parametrize("write", WRITERS)
def test_every_exporter(tmp_path: Path, write: Callable[..., bytes]) -> None:
    lines = on(ROOM, talk((MEI, '她说"好,\n走"', 0), (ME, "嗯\r\n马上", 60), (HU, "FALSE", 5), (ME, "2.0156416", 5)))
    found = said(saved(tmp_path, "a.csv", write(lines)))
    assert [(one.time, one.text, one.chat) for one in found] == [
        (line.seconds, plain(line.text), ROOM) for line in lines
    ]
    assert [one.sender for one in found] == [MEI, wechat.ME, HU, wechat.ME]
    assert [bool(one.is_me) for one in found] == [False, True, False, True]
    assert all(one.is_group for one in found)


def v2(*rows: tuple[str, str], is_forward: str = "FALSE") -> bytes:
    """A file of (type_name, msg) of one friend."""
    return table(
        V2,
        [
            (n, n, k, 0, "wxid_mei", "wxid_mei", t, "", "2023-08-12 23:22:41", is_forward)
            for n, (k, t) in enumerate(rows)
        ],
    )


@pytest.mark.parametrize(
    "kind",
    [
        "图片", "视频", "语音", "合并转发的聊天记录", "(分享)音乐", "(分享)卡片式链接", "(分享)笔记", "(分享)小程序",
        "(分享)收藏夹",
        "(分享)视频号名片", "(分享)视频号视频", "粘贴的文本", "未知", "以后才有的类型",
    ],
)  # fmt: skip
def test_kinds_that_cut(tmp_path: Path, kind: str) -> None:
    assert texts(saved(tmp_path, "a.csv", v2((kind, "<xml>"), ("文本", "好")))) == [f"<{kind}!>", "好"]


@pytest.mark.parametrize(
    "kind",
    [
        "添加好友", "推荐公众号", "动画表情", "用户上传的GIF表情", "位置", "文件", "位置共享", "引用回复", "群公告",
        "转账", "语音通话",
        "系统通知", "消息撤回", "拍一拍", "邀请加群",
    ],
)  # fmt: skip
def test_kinds_that_are_passed_over(tmp_path: Path, kind: str) -> None:
    assert texts(saved(tmp_path, "a.csv", v2((kind, "<xml>"), ("文本", "好")))) == [f"<{kind}>", "好"]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("文本", "", "<空消息>"),
        ("文本", "<revokemsg>梅朵撤回了一条消息</revokemsg>", "<消息撤回>"),
        ("系统通知", "<revokemsg>你撤回了一条消息</revokemsg>", "<消息撤回>"),
        ("文本", "我也去\n\n[引用](2023-08-12 10:00:00)梅朵:周末爬山\n第二行", "我也去"),
        ("引用回复", "我也去\n\n[引用](2023-08-12 10:00:00)梅朵:周末爬山", "我也去"),
        ("引用回复", "\n\n[引用](2023-08-12 10:00:00)梅朵:周末爬山", "<引用回复>"),
        ("文本", "这个[引用]是什么", "这个[引用]是什么"),
        ("文本", "[捂脸]", "[捂脸]"),
    ],
)
def test_texts(tmp_path: Path, kind: str, text: str, expected: str) -> None:
    assert texts(saved(tmp_path, "a.csv", v2((kind, text)))) == [expected]


def test_forwarded_words_are_not_the_senders(tmp_path: Path) -> None:
    assert texts(saved(tmp_path, "a.csv", v2(("文本", "转来的话"), is_forward="TRUE"))) == ["<转发!>"]


@pytest.mark.parametrize("time", ["2023-08-12 23:22:41", "2023/8/12 23:22", "1691882561"])
def test_times(tmp_path: Path, time: str) -> None:
    data = table(V2, [(1, 1, "文本", 0, "wxid_mei", "wxid_mei", "好", "", time, "")])
    assert said(saved(tmp_path, "a.csv", data))[0].time // 60 == 1691882561 // 60


def test_a_time_that_is_none_is_said(tmp_path: Path) -> None:
    row = dict(zip(V2.split(","), (1, 1, "文本", 0, "wxid_mei", "", "好", "", "昨天", ""), strict=True))
    (item,) = wechat.read([Row(value=row, source="a.csv:2")])
    assert getattr(item, "reason", "") == "chatlog.bad-time"
    assert "'昨天'" in getattr(item, "detail", "")


@pytest.mark.parametrize(
    ("type", "subtype", "expected"),
    [
        (1, 0, "在"), (3, 0, "<图片!>"), (34, 0, "<语音!>"), (47, 0, "<动画表情>"), (49, 5, "<(分享)卡片式链接!>"),
        (49, 6, "<文件>"),
        (49, 57, "<引用回复>"), (49, 999, "<未知!>"), (10000, 0, "<系统通知>"), (10000, 4, "<拍一拍>"),
        (99, 0, "<未知!>"),
    ],
)  # fmt: skip
def test_types_of_the_stored_columns(tmp_path: Path, type: int, subtype: int, expected: str) -> None:
    data = table(STORED, [(1, 7, type, subtype, 0, 1691882561, "", "在", "", "", "梅朵", "wxid_mei")])
    assert texts(saved(tmp_path, "a.csv", data)) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[图片]", "<图片!>"), ("![图片](http://127.0.0.1:5030/image/abc)", "<图片!>"),
        ("[语音](http://127.0.0.1/a)", "<语音!>"),
        ("![动画表情](http://127.0.0.1/e)", "<动画表情>"),
        ("[链接|周末市集](http://127.0.0.1/a)", "<(分享)卡片式链接!>"),
        ("[文件|计划.docx]", "<文件>"), ("[合并转发|群聊]", "<合并转发的聊天记录!>"),
        ("[小程序|点单]", "<(分享)小程序!>"),
        ("看[图片]了吗", "看[图片]了吗"), ("[笑]", "[笑]"),
    ],
)  # fmt: skip
def test_placeholders_of_the_listed_columns(tmp_path: Path, text: str, expected: str) -> None:
    line = Line(MEI, text, chat="wxid_mei")
    assert texts(saved(tmp_path, "a.csv", exports.wechat_listed([line]))) == [expected]


def test_content_that_is_no_json_is_text(tmp_path: Path) -> None:
    data = table(exports.V1, [(1, 1, "文本", 0, "wxid_mei", "r", "{不是 JSON", "2023-08-12 23:22:41")])
    assert texts(saved(tmp_path, "a.csv", data)) == ["{不是 JSON"]


def test_a_record_of_another_shape_is_rejected() -> None:
    (item,) = wechat.read([Row(value={"a": 1}, source="a.csv:2")])
    assert getattr(item, "reason", "") == "format.unknown-fields"


def test_the_tables_agree() -> None:
    assert set(KINDS.values()) <= wechat.CUTTING | wechat.PASSED
    assert all(wechat._kind_of(word) in wechat.CUTTING | wechat.PASSED for word in LISTED_WORDS)


WORDS = st.text(alphabet="春眠不觉晓,\"' \n\rabc\t;=，。{}0", min_size=1, max_size=15).filter(
    lambda text: bool(plain(text))
)


@pytest.mark.parametrize("write", WRITERS)
@given(lines=st.lists(st.tuples(st.sampled_from([ME, MEI, HU]), WORDS, st.integers(0, 999)), min_size=1, max_size=5))
def test_what_is_written_is_read(write: Callable[..., bytes], lines: list[tuple[str, str, int]]) -> None:
    import csv
    import io

    written = on(ROOM, talk(*lines))
    text = io.StringIO(write(written).decode("utf-8-sig"), newline="")
    rows = [Row(value=record, source="a.csv") for record in csv.DictReader(text)]
    found = [one for one in wechat.read(rows) if isinstance(one, Said)]
    assert [(one.sender, one.time, one.text) for one in found] == [
        (wechat.ME if line.who == ME else line.who, line.seconds, plain(line.text)) for line in written
    ]
