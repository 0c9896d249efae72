"""A file's encoding is told from its bytes, or it is refused; nothing turns into mojibake silently."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from hantune.data import encoding
from hantune.data.sources import read_rows
from hantune.data.types import Reject
from hantune.errors import DataError

TEXT = '{"instruction": "请问高血压患者能吃党参吗?", "output": "可以的, 但要注意用量。"}\n' * 20


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("gbk", "gb18030"),
        ("gb18030", "gb18030"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("is_gzip", [False, True])
def test_encodings_are_told_and_read(tmp_path: Path, codec: str, expected: str, is_gzip: bool) -> None:
    data = TEXT.encode(codec)
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(data) if is_gzip else data)
    assert encoding.sniff(path) == expected
    with encoding.open_text(path, encoding.sniff(path)) as file:
        assert file.read() == TEXT


def test_chinese_after_a_long_ascii_beginning_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"question,answer\n" + b"hello,world\n" * 20_000 + "你好,很高兴认识你\n".encode("gbk") * 5)
    assert encoding.sniff(path) == "gb18030"


def test_a_character_at_the_end_of_the_sample_is_not_cut(tmp_path: Path) -> None:
    for shift in range(4):
        path = tmp_path / f"{shift}.txt"
        path.write_bytes(b"a" * shift + "好".encode() * 60_000)
        assert encoding.sniff(path) == "utf-8"


@pytest.mark.parametrize("torn", [b"\xff\xfe", b"\x81 ", b"\xe4", b"\xa1"])
@pytest.mark.parametrize("at", [0, 30])
def test_one_torn_line_of_ascii_is_a_reject_of_its_own(tmp_path: Path, torn: bytes, at: int) -> None:
    line = b'{"question":"hello there","answer":"fine thanks"}\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(line * at + line.replace(b"fine", b"f" + torn + b"ine") + line * (40 - at))
    items = list(read_rows(path))
    assert [isinstance(item, Reject) for item in items] == [number == at for number in range(41)]


def test_one_torn_line_does_not_make_a_utf8_file_gb18030(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("今天天气很好\t是的\n".encode() * 9 + "断开".encode()[:-1] + b"\n")
    assert encoding.sniff(path) == "utf-8"
    with encoding.open_text(path, "utf-8") as file:
        lines = file.read().split("\n")
    assert [bool(encoding.BROKEN.search(line)) for line in lines] == [False] * 9 + [True, False]


@pytest.mark.parametrize("codec", ["gb18030", "utf-16", "utf-8"])
def test_undecodable_bytes_are_marked_in_every_encoding(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("你好".encode(codec) + b"\xff")
    with encoding.open_text(path, codec) as file:
        assert encoding.BROKEN.search(file.read())


def test_big5_is_no_gb18030(tmp_path: Path) -> None:
    text = "今天天氣很好，我們一起去公園散步吧。電腦壞掉了，請問應該怎麼處理比較好呢？謝謝大家的幫忙！\n" * 20
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("big5"))
    with encoding.open_text(path, encoding.sniff(path)) as file:
        assert file.read() == text


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(DataError) as caught:
        encoding.sniff(path)
    assert caught.value.code == "source.encoding"
