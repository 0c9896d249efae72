"""WhatsApp: the shapes of phones and languages, the order of day and month, marks of direction; written is read."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import whatsapp
from hantune.data.formats.common import plain
from hantune.data.formats.logs import read_log
from hantune.data.formats.said import Said
from hantune.data.formats.whatsapp import date_order, seconds, stamp_of
from tests.data.formats import exports
from tests.data.formats.exports import HU, ME, MEI, NAMES, START, WHATSAPP, said, saved, talk, texts

LINES = talk((MEI, "周末去吗", 0), (ME, "去\n\n几点: 九点", 60), (MEI, "12/31 见", 3600 * 12))


@pytest.mark.parametrize("shape", sorted(WHATSAPP))
def test_shapes(tmp_path: Path, shape: str) -> None:
    source = saved(tmp_path, "_chat.txt", exports.whatsapp(LINES, shape))
    notice, *found = said(source)
    assert notice.kind == "系统通知"
    assert [(one.sender, one.text) for one in found] == [(NAMES[line.who], line.text) for line in LINES]
    assert [one.time // 60 for one in found] == [line.seconds // 60 for line in LINES]
    assert [one.place for one in found] == ["_chat.txt:2", "_chat.txt:3", "_chat.txt:6"]


@pytest.mark.parametrize(
    "line",
    [
        "31/12/2020, 21:05 - 梅朵: 好", "12/31/20, 9:05 PM - 梅朵: 好", "12/31/20, 9:05\u202fPM - 梅朵: 好",
        "31.12.20, 21:05 - 梅朵: 好",
        "2020-12-31, 21:05 - 梅朵: 好", "2020/12/31 下午9:05 - 梅朵: 好", "2020/12/31 21:05 - 梅朵: 好",
        "2020年12月31日 21:05 - 梅朵: 好",
        "[31/12/2020, 21:05:00] 梅朵: 好", "\u200e[2020/12/31 下午9:05:00] 梅朵: 好",
        "[12/31/20, 9:05:00 p.m.] 梅朵: 好",
        "[12/31/20 21:05:00] 梅朵: 好", "31/12/2020, 21.05 - 梅朵: 好", "\ufeff31/12/2020, 9:05 pm - 梅朵: 好",
    ],
)  # fmt: skip
def test_headers(line: str) -> None:
    stamp = stamp_of(line)
    assert stamp
    assert line[stamp.rest :] == "梅朵: 好"
    new_year = int((datetime(2020, 12, 31, 21, 5) - datetime(1970, 1, 1)).total_seconds())
    assert new_year in {seconds(stamp, order) for order in whatsapp.ORDERS}


@pytest.mark.parametrize(
    "line",
    ["好", "2020 年见", "12/31 见", "[图片] 好", "31/12/2020, 21:05 梅朵", "[31/12/2020, 21:05:00 - 梅朵: 好", "1/2/3"],
)
def test_no_headers(line: str) -> None:
    assert stamp_of(line) is None


@pytest.mark.parametrize("order", ["dmy", "mdy"])
@pytest.mark.parametrize("days", [3, 40, 400])
def test_the_order_of_day_and_month(tmp_path: Path, order: str, days: int) -> None:
    start = datetime(2021, 1, 3, 20, 0)
    times = [start + timedelta(hours=13 * n) for n in range(days * 2)]
    stamps = [f"{t.day}/{t.month}" if order == "dmy" else f"{t.month}/{t.day}" for t in times]
    rows = [f"{stamp}/{t:%y, %H:%M} - 梅朵: 好\n" for stamp, t in zip(stamps, times, strict=True)]
    source = saved(tmp_path, "_chat.txt", "".join(rows).encode())
    assert date_order(source) == order


def test_in_doubt_the_day_comes_first_but_not_in_america(tmp_path: Path) -> None:
    assert date_order(saved(tmp_path, "a.txt", "1/2/21, 20:05 - 梅: 好\n".encode() * 2)) == "dmy"
    assert date_order(saved(tmp_path, "b.txt", "1/2/21, 8:05 PM - 梅: 好\n".encode() * 2)) == "mdy"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<Media omitted>", "<未知!>"), ("<省略媒体文件>", "<未知!>"), ("<省略影音内容>", "<未知!>"),
        ("\u200eimage omitted", "<图片!>"),
        ("\u200e图像已忽略", "<图片!>"), ("\u200evideo omitted", "<视频!>"), ("\u200eaudio omitted", "<语音!>"),
        ("\u200esticker omitted", "<动画表情>"),
        ("\u200eGIF omitted", "<用户上传的GIF表情>"), ("\u200e<attached: 00000012-PHOTO-2021-03-05.jpg>", "<图片!>"),
        ("IMG-20210305-WA0001.jpg (file attached)", "<图片!>"),
        ("PTT-20210305-WA0001.opus (file attached)", "<语音!>"),
        ("DOC-20210305-WA0001.pdf (file attached)", "<文件>"), ("This message was deleted", "<消息撤回>"),
        ("你已删除此消息。", "<消息撤回>"),
        ("\u200eYou deleted this message.", "<消息撤回>"), ("Missed voice call", "<语音通话>"),
        ("\u200e你改了群图标", "<系统通知>"), ("", "<空消息>"),
        ("可以忽略", "可以忽略"), ("图片我看了", "图片我看了"), ("好的 \u200e<This message was edited>", "好的"),
        ("a < b > c", "a < b > c"),
        ("网址: http://127.0.0.1", "网址: http://127.0.0.1"),
    ],
)  # fmt: skip
def test_kinds(tmp_path: Path, text: str, expected: str) -> None:
    source = saved(tmp_path, "_chat.txt", exports.whatsapp(talk((MEI, text, 0), (ME, "好", 5))))
    assert texts(source) == ["<系统通知>", expected, "好"]


def test_notices_have_no_sender(tmp_path: Path) -> None:
    data = exports.whatsapp(talk((MEI, "在", 0))) + "05/03/2021, 08:09 - 梅朵 added 沈小满\n".encode()
    assert [one.sender for one in said(saved(tmp_path, "_chat.txt", data))] == ["", "梅朵", ""]


def test_ios_tells_a_quoted_header_from_one(tmp_path: Path) -> None:
    quote = "看:\n[05/03/2021, 08:00:00] 沈小满: 原话"
    assert texts(saved(tmp_path, "_chat.txt", exports.whatsapp(talk((MEI, quote, 0)), "ios")))[1:] == [quote]


def test_a_date_that_does_not_exist_is_text(tmp_path: Path) -> None:
    data = exports.whatsapp(talk((MEI, "在\n45/45/2021, 08:00 - 梅朵: 假的", 0)))
    assert texts(saved(tmp_path, "_chat.txt", data))[1:] == ["在\n45/45/2021, 08:00 - 梅朵: 假的"]


WORDS = st.text(alphabet="春眠不觉晓abc ,.\n[]-:<>😀\t0/", max_size=12).filter(
    lambda text: plain(text) and not any(stamp_of(line) for line in text.split("\n"))
)


@pytest.mark.parametrize("shape", sorted(WHATSAPP))
@given(lines=st.lists(st.tuples(st.sampled_from([ME, MEI, HU]), WORDS, st.integers(0, 40_000)), min_size=1, max_size=5))
def test_what_is_written_is_read(shape: str, lines: list[tuple[str, str, int]]) -> None:
    written = talk(*lines)
    with tempfile.TemporaryDirectory() as folder:
        source = saved(Path(folder), "_chat.txt", exports.whatsapp(written, shape))
        found = [one for one in read_log(source, "whatsapp") if isinstance(one, Said)][1:]
    assert [(one.sender, one.text) for one in found] == [(NAMES[line.who], plain(line.text)) for line in written]
    assert [one.time // 60 for one in found] == [line.seconds // 60 for line in written]
    assert START.minute == 3
