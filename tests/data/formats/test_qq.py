"""QQ: every oddity of the bytes of an export, and the law that what was written is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import qq
from hantune.data.formats.common import plain
from hantune.data.formats.qq import sender_of
from hantune.data.formats.said import Said
from tests.data.formats import exports
from tests.data.formats.exports import (
    HU,
    ME,
    MEI,
    NAMES,
    RULE,
    Line,
    qq_block,
    qq_file,
    qq_message,
    said,
    saved,
    talk,
    texts,
)

AT = "2016-07-19 15:27:15"


def one_block(text: str) -> bytes:
    return qq_file(qq_block("我的好友", "梅朵", text))


def test_a_chat(tmp_path: Path) -> None:
    data = exports.qq(talk((MEI, "明天几点集合", 0), (ME, "九点\r\n老地方", 30)))
    assert data.startswith(b"\xef\xbb\xbf")
    assert "2021-03-05 8:03:05 梅朵(30020002)\r\n明天几点集合\r\n\r\n".encode() in data
    first, second = said(saved(tmp_path, "a.txt", data))
    assert first == Said(
        time=exports.Line(ME, "").seconds,
        sender=MEI,
        name="梅朵",
        text="明天几点集合",
        chat="我的群/读书会",
        place="a.txt:9",
        block=1,
    )
    assert (second.text, second.place) == ("九点\n老地方", "a.txt:12")


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2016-07-19 15:27:15", "15:27:15"), ("2016-07-19 9:05:33", "9:05:33"), ("2016-07-19 8:43:38 PM", "20:43:38"),
        ("2016-07-19 12:00:01 AM", "0:00:01"), ("2016-07-19 上午 3:13:28", "3:13:28"),
        ("2016-07-19 下午 3:13:28", "15:13:28"),
        ("2016-07-19 下午3:13:28", "15:13:28"), ("2016-07-19 上午 08:00:00", "8:00:00"),
        ("2016-7-19 15:27:15", "15:27:15"),
        ("2016/7/19 15:27:15", "15:27:15"),
    ],
)  # fmt: skip
def test_spellings_of_the_time(tmp_path: Path, time: str, expected: str) -> None:
    only = said(saved(tmp_path, "a.txt", one_block(qq_message(f"{time} 梅朵(30020002)", "在"))))
    assert len(only) == 1
    seconds = only[0].time % 86400
    assert f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}" == expected


@pytest.mark.parametrize(
    ("rest", "id", "name"),
    [
        ("梅朵(30020002)", "30020002", "梅朵"), ("梅朵<meiduo@example.com>", "meiduo@example.com", "梅朵"),
        ("梅朵<+8613000000000>", "+8613000000000", "梅朵"), ("梅朵<130-0000-0000>", "130-0000-0000", "梅朵"),
        ("【管理员】梅朵(30020002)", "30020002", "梅朵"), ("【群主】【管理员】梅 朵(30020002)", "30020002", "梅 朵"),
        ("(30020002)", "30020002", ""), ("【管理员】(30020002)", "30020002", ""),
        ("30020002(30020002)", "30020002", "30020002"),
        ("梅(朵)(30020002)", "30020002", "梅(朵)"), ("梅朵(2019)", None, "梅朵(2019)"), ("梅朵😀 ~", None, "梅朵😀 ~"),
        ("a<b>c", None, "a<b>c"), ("梅 朵 (小号)(30020002)", "30020002", "梅 朵 (小号)"), ("", None, ""),
        ("【管理员】梅朵", None, "【管理员】梅朵"), ("梅\u00a0朵(30020002)", "30020002", "梅\u00a0朵"),
    ],
)  # fmt: skip
def test_senders(rest: str, id: str | None, name: str) -> None:
    assert sender_of(rest) == (id, name)


@pytest.mark.parametrize(
    "body",
    [
        "第一行\r\n\r\n\r\n第二段", "tab\t和\u00a0不断空格", "单独的\r回车", "单独的\n换行", "\n开头",
        "行尾空格   \r\n下一行",
        f"他说:\r\n{AT} 梅朵(30020002)\r\n就这样", f"{AT} 梅朵(30020002)", f"引用\n\n{AT} 梅朵(30020002)\n\n完",
        f"引用\r\r{AT} 梅朵(30020002)", "2016-13-45 15:27:15 梅朵(30020002)", f"分隔线\r\n\r\n{RULE}\r\n到此为止",
        f"{RULE}\r\n消息分组:不是真的", f"分隔\r\n\r\n{RULE}\r\n消息分组:甲\r\n{RULE}\r\n不是头",
        "\u2028段落符\x85也不是行", "招聘\r\n" * 5000,
        "消息对象:梅朵", "=" * 63,
    ],
)  # fmt: skip
def test_bodies_come_back_whole(tmp_path: Path, body: str) -> None:
    text = qq_message(f"{AT} 沈小满(20010001)", body) + qq_message("2016-07-19 15:28:15 梅朵(30020002)", "好")
    found = said(saved(tmp_path, "a.txt", one_block(text)))
    assert [one.text for one in found] == [plain(body), "好"]
    assert [one.sender for one in found] == [ME, MEI]


def test_a_quoted_header_after_an_empty_line_cannot_be_told_apart(tmp_path: Path) -> None:
    body = f"看这段\r\n\r\n{AT} 梅朵(30020002)\r\n原话"
    assert texts(saved(tmp_path, "a.txt", one_block(qq_message(f"{AT} 沈小满(20010001)", body)))) == ["看这段", "原话"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[图片]", "<图片>"), ("[表情][表情]", "<表情>"), ("[图片]\r\n[表情]", "<图片>"), ("[语音]", "<语音>"),
        ("[视频]", "<视频>"),
        ("[QQ红包]", "<QQ红包>"), ("[动作消息]", "<动作消息>"), ("", "<空消息>"), (" \t\u00a0", "<空消息>"),
        ("哈哈[表情]", "哈哈"),
        ("[图片]好看吗", "好看吗"), ("[某地]开会", "[某地]开会"), ("[1]", "[1]"), ("你撤回了一条消息", "<消息撤回>"),
        ("\"梅朵\"撤回了一条消息", "<消息撤回>"), ("对方撤回了一条消息", "<消息撤回>"),
        ("梅朵撤回了一条消息", "<消息撤回>"),
        ("你刚才撤回了一条消息吗", "你刚才撤回了一条消息吗"), ("你撤回了一条消息 重新编辑", "<消息撤回>"),
    ],
)  # fmt: skip
def test_what_is_no_text(tmp_path: Path, body: str, expected: str) -> None:
    source = saved(tmp_path, "a.txt", one_block(qq_message(f"{AT} 梅朵(30020002)", body)))
    assert texts(source) == [expected]


def test_an_empty_body_may_lack_its_line(tmp_path: Path) -> None:
    text = f"{AT} 梅朵(30020002)\r\n\r\n2016-07-19 15:28:15 沈小满(20010001)\r\n在\r\n\r\n"
    assert texts(saved(tmp_path, "a.txt", one_block(text))) == ["<空消息>", "在"]


@pytest.mark.parametrize("sender", ["系统消息(10000)", "系统消息(1000000)", "系统消息"])
def test_the_system_is_nobody(tmp_path: Path, sender: str) -> None:
    source = saved(tmp_path, "a.txt", one_block(qq_message(f"{AT} {sender}", "梅朵加入了本群")))
    assert texts(source) == ["<系统通知>"]


def test_all_messages_repeat_the_block(tmp_path: Path) -> None:
    data = qq_file(
        qq_block("我的好友", "梅朵", qq_message(f"{AT} 梅朵", "早")),
        qq_block("我的好友", "最近联系人", qq_message(f"{AT} 梅朵", "早")),
        qq_block("同学", "梅朵", ""),
        qq_block("我的好友", "梅朵", qq_message(f"{AT} 沈小满", "早啊")),
    )
    found = said(saved(tmp_path, "a.txt", data))
    assert [(one.chat, one.kind or one.text) for one in found] == [
        ("我的好友/梅朵", "早"), ("我的好友/最近联系人", "最近联系人"), ("我的好友/梅朵", "早啊"),
    ]  # fmt: skip
    assert found[0].block != found[2].block
    assert not any(one.cuts for one in found)


def test_private_chats_have_no_ids(tmp_path: Path) -> None:
    found = said(saved(tmp_path, "a.txt", exports.qq(talk((MEI, "在吗", 0), (ME, "在", 5)), has_ids=False)))
    assert [(one.sender, one.name, one.is_group) for one in found] == [
        ("梅朵", "梅朵", False),
        ("沈小满", "沈小满", False),
    ]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("has_title", [True, False])
def test_what_editors_do_to_a_file(tmp_path: Path, codec: str, end: str, has_title: bool) -> None:
    text = exports.qq(talk((MEI, "在吗", 0), (ME, "在", 5), (HU, "喵", 5))).decode("utf-8-sig").replace("\r\n", end)
    if not has_title:
        text = text[text.index("2021") :]
    source = saved(tmp_path, "a.txt", text.encode(codec))
    assert texts(source) == ["在吗", "在", "喵"]
    assert said(source)[2].place == f"a.txt:{15 if has_title else 7}"


def test_broken_bytes_spoil_one_message(tmp_path: Path) -> None:
    data = exports.qq(talk((MEI, "在吗", 0), (ME, "坏掉", 5), (MEI, "好", 5)))
    source = saved(tmp_path, "a.txt", data.replace("坏".encode(), b"\xe5\x9d"))
    assert texts(source) == ["在吗", "<乱码>", "好"]


SENTENCES = st.text(alphabet="春眠不觉晓abc ,.\u3002😀\t[]()<>:=2016-", min_size=1, max_size=12)


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """A text of several lines that end in one of the three ways."""
    parts = draw(st.lists(SENTENCES, min_size=1, max_size=4))
    ends = [draw(st.sampled_from(["\r\n", "\r", "\n", "\r\n\r\n", "\n\n"])) for _ in parts[1:]]
    return parts[0] + "".join(end + part for end, part in zip(ends, parts[1:], strict=True))


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(NAMES)), bodies().filter(plain), st.integers(0, 10_000)),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_written_is_read(lines: list[tuple[str, str, int]]) -> None:
    written = talk(*lines)
    text = exports.qq(written).decode("utf-8-sig")
    found = list(qq.messages(io.StringIO(text, newline=""), qq.separator_of(text), "a.txt"))
    assert [(one.sender, one.time, one.text) for one in found] == [
        (line.who, line.seconds, plain(line.text)) for line in written
    ]


def test_other_texts_are_none_of_qq() -> None:
    assert qq.matches("你 好\t好\n再 见\t回 见\n") is None
    assert qq.matches(f"{AT} 只有一行\n") is None
    assert Line(ME, "").seconds == 1614931385
