"""Chat logs end to end: every client's file gives the same conversations; sorting, merging, naming, who you are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data import spill
from hantune.data.chatlog import Windows, Yield, conversations, examine, people
from hantune.data.sources import Place, SourceFile, inspect
from hantune.data.types import Conversation, Reject
from hantune.errors import DataError
from hantune.log import console
from tests.data.formats import exports
from tests.data.formats.exports import HU, ME, MEI, Line, on, qq_block, qq_file, qq_message, saved, talk
from tests.laws import examples

LINES = talk(
    (MEI, "周末去爬山吗", 0), (ME, "去", 60), (ME, "几点", 60), (MEI, "九点\n老地方", 60), (ME, "好", 60),
    (MEI, "带水", 4000),
    (ME, "嗯", 60), (ME, "睡了", 5000),
)  # fmt: skip
EXPECTED = [["周末去爬山吗", "去\n几点", "九点\n老地方", "好"], ["带水", "嗯"]]
WRITERS: dict[str, tuple[str, Callable[[list[Line]], bytes], str]] = {
    "qq": ("a.txt", exports.qq, ME),
    "qq-private": ("a.txt", lambda lines: exports.qq(lines, has_ids=False), "沈小满"),
    "wechat-v2": ("a.csv", exports.wechat_v2, ME),
    "wechat-v1": ("a.csv", exports.wechat_v1, ME),
    "wechat-stored": ("a.csv", exports.wechat_stored, "我"),
    "wechat-listed": ("a.csv", exports.wechat_listed, "我"),
    "telegram": ("result.json", exports.telegram, "沈小满"),
    "whatsapp": ("_chat.txt", exports.whatsapp, "沈小满"),
    "timed": ("a.csv", exports.generic, ME),
}


def read(source: SourceFile, me: str | list[str] | None = None, **options: object) -> list[list[str]]:
    items = conversations(source, me=me, **options)  # type: ignore[arg-type]
    return [[message.text for message in item.messages] for item in items if isinstance(item, Conversation)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_client_gives_the_same_conversations(tmp_path: Path, name: str) -> None:
    file, write, me = WRITERS[name]
    source = saved(tmp_path, file, write(LINES))
    report = Yield()
    assert read(source, me, report=report) == EXPECTED
    assert (report.kept, report.conversations, report.answers) == (7, 2, 3)
    assert report.reasons == {"chatlog.no-question": 1}
    assert report.read == report.kept + report.reasons.total() + report.kinds.total()
    assert {person.messages for person in people(source)} == {5, 3}


@pytest.mark.parametrize("name", ["wechat-v2", "wechat-v1", "wechat-stored", "wechat-listed"])
def test_wechat_says_itself_who_you_are(tmp_path: Path, name: str) -> None:
    file, write, _ = WRITERS[name]
    assert read(saved(tmp_path, file, write(LINES))) == EXPECTED


def test_so_does_a_full_export_of_telegram(tmp_path: Path) -> None:
    data = exports.telegram_full(exports.telegram_chat(LINES))
    assert read(saved(tmp_path, "result.json", data)) == EXPECTED


def test_otherwise_you_are_asked(tmp_path: Path) -> None:
    source = saved(tmp_path, "a.txt", exports.qq(LINES))
    with pytest.raises(DataError) as caught:
        conversations(source)
    assert caught.value.code == "chatlog.who-am-i"
    assert "\n  5 条  沈小满 (20010001)\n  3 条  梅朵 (30020002)" in caught.value.message


def test_other_files_are_no_logs(tmp_path: Path) -> None:
    source = saved(tmp_path, "a.csv", "question,answer\n你好,好\n".encode())
    with pytest.raises(DataError, match="chatlog.not-a-log"):
        people(source)


def test_a_group(tmp_path: Path) -> None:
    lines = talk((MEI, "去吗", 0), (HU, "去", 5), (HU, "带我", 5), (ME, "都去", 5), (HU, "喵", 5), (ME, "喵", 5))
    source = saved(tmp_path, "a.txt", exports.qq(lines))
    assert read(source, "沈小满") == [["梅朵: 去吗\n胡同口的猫: 去\n带我", "都去", "胡同口的猫: 喵", "喵"]]


def qq_lines(*lines: tuple[str, str, str]) -> str:
    return "".join(qq_message(f"2016-07-19 {time} {who}", text) for time, who, text in lines)


def test_a_renamed_person_is_one(tmp_path: Path) -> None:
    text = qq_lines(
        ("9:00:00", "【管理员】梅朵(30020002)", "早"), ("9:00:05", "小满(20010001)", "早"),
        ("9:00:10", "胡同(40030003)", "早"),
        ("9:00:15", "满满(20010001)", "都早"), ("9:00:20", "梅子(30020002)", "吃"), ("9:00:25", "(20010001)", "吃"),
        ("9:00:30", "梅子(30020002)", "好"),
    )  # fmt: skip
    source = saved(tmp_path, "a.txt", qq_file(qq_block("群", "群", text)))
    expected = [["梅子: 早", "早", "胡同: 早", "都早", "梅子: 吃", "吃"]]
    for me in ("小满", "满满", "20010001"):
        assert read(source, me) == expected


def test_a_chat_that_comes_twice_is_merged(tmp_path: Path) -> None:
    early = qq_lines(
        ("9:00:00", "梅朵", "早"), ("9:00:05", "小满", "早呀"), ("9:00:10", "梅朵", "哈哈"), ("9:00:10", "梅朵", "哈哈")
    )
    late = qq_lines(("9:00:05", "小满", "早呀"), ("9:00:10", "梅朵", "哈哈"), ("9:00:20", "小满", "笑什么"))
    between = qq_lines(("9:00:07", "胡同", "喵"), ("9:00:08", "小满", "喵"))
    recent = qq_block("我的好友", "最近联系人", early)
    data = qq_file(qq_block("友", "梅朵", early), qq_block("友", "胡同", between), recent, qq_block("友", "梅朵", late))
    report = Yield()
    source = saved(tmp_path, "a.txt", data)
    assert read(source, "小满", report=report) == [["早", "早呀", "哈哈\n哈哈", "笑什么"], ["喵", "喵"]]
    assert (report.repeated, report.kinds) == (2, {"最近联系人": 4})
    assert report.read == 13 == report.kept + report.kinds.total() + report.repeated


def test_a_private_chat_with_a_third_name_is_said(tmp_path: Path) -> None:
    text = qq_lines(
        ("9:00:00", "梅朵", "早"), ("9:00:05", "小满", "早"), ("9:00:10", "满满", "吃了吗"), ("9:00:15", "梅朵", "吃了")
    )
    source = saved(tmp_path, "a.txt", qq_file(qq_block("友", "梅朵", text)))
    before = len(console.warnings)
    assert read(source, "小满") == [["早", "早"]]
    assert "有 2 个别人的名字 (梅朵、满满)" in console.warnings[before]
    assert read(source, ["小满", "满满"]) == [["早", "早\n吃了吗"]]
    assert len(console.warnings) == before + 1


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_mixed_chats_are_sorted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(spill, "AT_ONCE", at_once)
    monkeypatch.setattr(spill.in_order, "__kwdefaults__", {"at_once": at_once})
    mixed = sorted(on("甲", LINES) + on("乙", LINES), key=lambda line: line.text)
    source = saved(tmp_path, "a.csv", exports.wechat_v2(mixed))
    found = list(conversations(source))
    assert [[m.text for m in item.messages] for item in found if isinstance(item, Conversation)] in (
        [*EXPECTED, *EXPECTED],
        [*EXPECTED],
    )
    chats = [item.meta["chat"] for item in found if isinstance(item, Conversation)]
    assert chats[0] == chats[1] != chats[2] == chats[3]


def test_broken_records_are_rejects_with_their_places(tmp_path: Path) -> None:
    data = exports.generic(talk((MEI, "在吗", 0), (ME, "在", 5))) + "昨天,梅朵,好,\n一,二,三,四,五,六\n".encode()
    report = Yield()
    items = list(conversations(saved(tmp_path, "a.csv", data), me=ME, report=report))
    assert [(item.reason, item.source) for item in items if isinstance(item, Reject)] == [
        ("chatlog.bad-time", "a.csv:4"), ("source.broken-csv", "a.csv:5"),
    ]  # fmt: skip
    assert (report.read, report.kept, report.broken.total()) == (4, 2, 2)


def test_a_sample_of_a_log_is_one_of_conversations(tmp_path: Path) -> None:
    lines = talk(*[(who, f"{n}", 5 if who == ME else 4000) for n in range(20) for who in (MEI, ME)])
    path = saved(tmp_path, "a.txt", exports.qq(lines)).path
    report = Yield()
    found = read(inspect(Place(path, "a.txt#5", sample="#5")), ME, report=report)
    assert len(found) == 5
    assert all(len(pair) == 2 and pair[0] == pair[1] for pair in found)
    assert (report.read, report.conversations) == (40, 20)


def test_the_first_pass_need_not_be_made_twice(tmp_path: Path) -> None:
    source = saved(tmp_path, "a.txt", exports.qq(LINES))
    found = examine(source)
    assert found.people == people(source)
    assert read(source, ME, found=found) == EXPECTED


def test_system_prompt_and_windows(tmp_path: Path) -> None:
    source = saved(tmp_path, "a.txt", exports.qq(LINES))
    assert read(source, ME, system="你是小满")[1] == ["你是小满", "带水", "嗯"]
    assert len(read(source, ME, windows=Windows(pair=9999))) == 1


def test_thirty_lines_of_the_wrong_person_are_explained(tmp_path: Path) -> None:
    lines = talk(*[(ME, f"通知 {n}", 400) for n in range(29)], (MEI, "收到", 5))
    report = Yield()
    assert read(saved(tmp_path, "a.txt", exports.qq(lines)), ME, report=report) == []
    assert "30 条消息没有成为一个样本" in report.text()
    assert "确认 --me 说的是你自己" in report.text()


@examples(15, 40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ME, MEI]), st.text(alphabet="春眠晓abc,\n", min_size=1, max_size=8).filter(str.strip),
            st.sampled_from([0, 60, 120, 180, 300, 360, 7200]),
        ),
        min_size=1, max_size=12,
    ),
    st.sampled_from(sorted(set(WRITERS) - {"wechat-listed", "qq-private"})),
)  # fmt: skip
def test_clients_agree(lines: list[tuple[str, str, int]], name: str) -> None:
    written = talk((MEI, "开头", 0), (ME, "好", 60), *lines)
    file, write, me = WRITERS[name]
    with tempfile.TemporaryDirectory() as folder:
        found = read(saved(Path(folder), file, write(written)), me)
        assert found == read(saved(Path(folder), "b.txt", exports.qq(written)), ME)
