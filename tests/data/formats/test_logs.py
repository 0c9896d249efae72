"""Which files are chat logs: each kind is found and said why, nothing else is taken for one, no window copy is read."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from hantune.data.formats.logs import LOGS, detect_log, read_log
from hantune.data.sources import Place, expand, inspect
from hantune.data.types import Reject
from hantune.errors import DataError
from tests.data.formats import exports
from tests.data.formats.exports import HU, ME, MEI, on, saved, talk

LINES = on("a@chatroom", talk((MEI, "周末去吗", 0), (ME, "去", 60), (HU, "我也去", 5), (ME, "好", 5)))
FILES = {
    "qq": ("全部消息记录.txt", exports.qq(LINES)),
    "qq-private": ("梅朵.txt", exports.qq(LINES, has_ids=False)),
    "wechat-v2": ("a.csv", exports.wechat_v2(LINES)),
    "wechat-v1": ("a.csv", exports.wechat_v1(LINES)),
    "wechat-stored": ("a.csv", exports.wechat_stored(LINES)),
    "wechat-listed": ("a.csv", exports.wechat_listed(LINES)),
    "telegram": ("result.json", exports.telegram(LINES)),
    "telegram-full": ("result.json", exports.telegram_full(exports.telegram_chat(LINES))),
    "whatsapp-android": ("_chat.txt", exports.whatsapp(LINES, "android")),
    "whatsapp-ios": ("_chat.txt", exports.whatsapp(LINES, "ios-zh")),
    "timed": ("a.csv", exports.generic(LINES)),
    "timed-json": ("a.jsonl", exports.generic_json(LINES)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_log_is_found(tmp_path: Path, name: str) -> None:
    found = detect_log(saved(tmp_path, *FILES[name]))
    assert found
    assert found.name == name.split("-")[0]
    assert found.why.startswith(f"像 {found.name}: ")
    assert found.name in LOGS


@pytest.mark.parametrize("name", FILES)
def test_packed_logs_are_read_the_same(tmp_path: Path, name: str) -> None:
    file, data = FILES[name]
    bare = saved(tmp_path, file, data)
    packed = saved(tmp_path, file + ".gz", gzip.compress(data))
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr(file, data)
    (member,) = (inspect(place) for place in expand(str(tmp_path / "export.zip")))
    expected = [said._replace(place="") for said in read_log(bare, name.split("-")[0]) if not isinstance(said, Reject)]
    assert len(expected) >= 4
    for source in (packed, member):
        found = detect_log(source)
        assert found
        items = [said for said in read_log(source, found.name) if not isinstance(said, Reject)]
        assert [said._replace(place="") for said in items] == expected
        assert all(said.place.startswith(source.name + ":") for said in items)


def test_a_sample_is_not_one_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(exports.generic(LINES))
    source = inspect(Place(path, "a.csv", sample="#1")._replace(name="a.csv#1"))
    found = detect_log(source)
    assert found
    assert [said.place for said in read_log(source, found.name) if not isinstance(said, Reject)] == [
        f"a.csv:{line}" for line in range(2, 6)
    ]


def test_a_torn_gzip_is_told(tmp_path: Path) -> None:
    data = gzip.compress(exports.qq(LINES * 2000))
    source = inspect(saved(tmp_path, "a.txt.gz", data).path)
    source.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="source.broken-gzip"):
        list(read_log(source, "qq"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "你 好\t好\n再 见\t回 见\n"),
        ("a.txt", "第一章\n2016-07-19 是个晴天.\n他说: 好\n"),
        ("a.txt", "今天 12:30:00\n"),
        ("a.csv", "question,answer\n你好,好\n"),
        ("a.csv", "time,title,author,content\n2021-3-5,甲,乙,丙\n"),
        ("a.csv", "time,author,content\n" + "".join(f"2021-3-5,作者{n},文章\n" for n in range(30))),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}\n'),
        ("a.json", '{"train": [["问", "答"]], "valid": [["问", "答"]]}'),
        ("a.jsonl", '["你好", "好"]\n'),
    ],
)
def test_other_files_are_no_logs(tmp_path: Path, name: str, text: str) -> None:
    assert detect_log(saved(tmp_path, name, text.encode())) is None


def test_no_shared_file_is_taken_for_a_log(shared_data: Path) -> None:
    places = [
        place
        for folder in ("lccc", "alpaca", "dialogue", "medical", "sharegpt")
        for place in expand(str(shared_data / folder))
    ]
    assert len(places) > 10
    assert [place.name for place in places if detect_log(inspect(place))] == []


@pytest.mark.parametrize(
    "headers",
    [
        ("梅朵 2/14/2020 9:16:13 PM", "沈小满 2/14/2020 9:17:02 PM"),
        ("梅朵 2020/2/14 21:16:13", "沈小满 2020/2/14 21:17:02"),
        ("梅朵(30020002) 21:16:13", "沈小满(20010001) 21:17:02"),
        ("梅朵 2020年2月14日 21:16", "沈小满 2020年2月14日 21:17"),
        ("梅 朵 昨天 21:16", "沈小满 昨天 21:17"),
        ("梅朵 2020-02-14 下午 9:16:13", "沈小满 2020-02-14 下午 9:17:02"),
    ],
)
def test_text_copied_from_a_window_is_refused(tmp_path: Path, headers: tuple[str, str]) -> None:
    text = "".join(f"{header}\r\n吃了吗\r\n还没\r\n\r\n" for header in headers * 3)
    with pytest.raises(DataError) as caught:
        detect_log(saved(tmp_path, "a.txt", text.encode()))
    assert (caught.value.code, caught.value.place) == ("chatlog.window-copy", "a.txt:1")
    assert headers[0] in caught.value.message
    assert "导出消息记录" in (caught.value.hint or "")
