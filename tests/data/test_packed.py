"""What is packed reads as if it were not; what is torn, locked, or dangerous to unpack is refused by name."""

from __future__ import annotations

import gzip
import io
import json
import stat
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from hantune.data import packed
from hantune.data.sources import expand, inspect, read_rows
from hantune.data.types import Row
from hantune.errors import DataError

LINES = "".join(json.dumps({"question": f"问{n}", "answer": "答"}, ensure_ascii=False) + "\n" for n in range(3))


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data).to_pybytes())


def places(given: Path) -> list[str]:
    """The ``source`` of every record behind a name."""
    files = [inspect(place) for place in expand(str(given))]
    return [item.source for file in files for item in read_rows(file) if isinstance(item, Row)]


def refusal(given: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        places(given)
    return caught.value


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl"])
def test_zstd_is_told_by_its_bytes(tmp_path: Path, name: str, frames: int) -> None:
    (tmp_path / name).write_bytes(zstd(LINES.encode()) * frames)
    assert len(places(tmp_path / name)) == 3 * frames


def test_a_zip_of_one_file(tmp_path: Path) -> None:
    assert places(zipped(tmp_path / "a.jsonl.zip", {"内容.jsonl": LINES.encode("gb18030")})) == [
        f"a.jsonl.zip/内容.jsonl:{line}" for line in (1, 2, 3)
    ]


def test_a_zip_of_many_files_without_what_others_add(tmp_path: Path) -> None:
    files = {
        "数据/b.csv": "question,answer\n问,答\n".encode("gb18030"),
        "数据/a.jsonl.gz": gzip.compress(LINES.encode()),
        "c.json.zst": zstd(json.dumps([{"question": "问", "answer": "答"}]).encode()),
        "__MACOSX/._b.csv": b"x", "数据/.DS_Store": b"x", "README.md": "说明".encode(), "数据/": b"",
    }  # fmt: skip
    path = zipped(tmp_path / "包.zip", files)
    assert [place.name for place in expand(str(path))] == [
        "包.zip/c.json.zst", "包.zip/数据/a.jsonl.gz", "包.zip/数据/b.csv",
    ]  # fmt: skip
    assert len(places(path)) == 5
    (tmp_path / "夹").mkdir()
    path.rename(tmp_path / "夹" / "包.zip")
    assert len(places(tmp_path / "夹")) == 5


def test_names_from_chinese_windows_are_read_as_gbk(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("AAAA.jsonl", LINES)
    (tmp_path / "a.zip").write_bytes(data.getvalue().replace(b"AAAA", "数据".encode("gb18030")))
    assert places(tmp_path / "a.zip")[0] == "a.zip/数据.jsonl:1"


@pytest.mark.parametrize("name", ["../a.jsonl", "x/../../a.jsonl", "/etc/a.jsonl", "C:/a.jsonl", "..\\a.jsonl"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    error = refusal(zipped(tmp_path / "a.zip", {"good.jsonl": LINES.encode(), name: LINES.encode()}))
    assert error.code == "source.unsafe-archive"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_links_and_twin_names_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "../secret")
    assert refusal(tmp_path / "link.zip").code == "source.unsafe-archive"
    with zipfile.ZipFile(tmp_path / "twin.zip", "w") as archive:
        archive.writestr("a.jsonl", LINES)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.jsonl", LINES)
    assert refusal(tmp_path / "twin.zip").code == "source.unsafe-archive"


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BOMB_BYTES", 1 << 20)
    zeros = LINES.encode() + b" " * (4 << 20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(zeros))
    (tmp_path / "b.jsonl.zst").write_bytes(zstd(zeros))
    zipped(tmp_path / "c.zip", {"a.jsonl": zeros})
    zipped(tmp_path / "d.zip", {"a.jsonl.gz": gzip.compress(zeros)}, zipfile.ZIP_STORED)
    for path in sorted(tmp_path.iterdir()):
        error = refusal(path)
        assert (error.code, "炸弹" in error.message) == ("source.unsafe-archive", True), path.name


def test_overlapping_entries_and_endless_directories_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "a.zip", {f"{n}.jsonl": LINES.encode() for n in range(30)})
    monkeypatch.setattr(packed, "MAX_MEMBERS", 20)
    assert "30 个文件" in refusal(path).message
    monkeypatch.setattr(packed, "DIRECTORY_BYTES", 100)
    assert refusal(path).code == "source.unsafe-archive"
    monkeypatch.undo()
    data = zipped(tmp_path / "b.zip", {"a.jsonl": bytes(range(256)) * 9}, zipfile.ZIP_STORED).read_bytes()
    at = data.index(b"PK\x01\x02")
    (tmp_path / "b.zip").write_bytes(data[: at + 20] + (1 << 20).to_bytes(4, "little") + data[at + 24 :])
    assert "重叠" in refusal(tmp_path / "b.zip").message


def test_torn_and_locked_archives(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.zip", {"a.jsonl": LINES.encode() * 99}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[: len(whole) // 2])
    assert refusal(tmp_path / "a.zip").code == "source.broken-archive"
    flipped = bytearray(whole)
    flipped[60:64] = b"\xff\xff\xff\xff"
    (tmp_path / "b.zip").write_bytes(bytes(flipped))
    assert refusal(tmp_path / "b.zip").code == "source.broken-archive"
    at = whole.index(b"PK\x01\x02")
    (tmp_path / "c.zip").write_bytes(whole[: at + 8] + b"\x01" + whole[at + 9 :])
    assert "密码" in refusal(tmp_path / "c.zip").message
    half = zstd(LINES.encode() * 999)
    (tmp_path / "d.jsonl.zst").write_bytes(half[: len(half) // 2])
    assert refusal(tmp_path / "d.jsonl.zst").code == "source.broken-archive"


def test_an_archive_in_an_archive_and_one_without_data(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"a.jsonl": LINES.encode()}).read_bytes()
    error = refusal(zipped(tmp_path / "a.zip", {"b.json": inner}))
    assert (error.code, error.place) == ("source.wrong-type", "a.zip/b.json")
    error = refusal(zipped(tmp_path / "c.zip", {"word/document.xml": b"<x/>"}))
    assert error.code == "source.wrong-type"
    assert "Word 文档" in error.message


def test_what_has_to_be_searched_is_unpacked_first(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    with packed.seekable(tmp_path / "a.bin") as file:
        assert file.seek(-1, io.SEEK_END) == 255
    zipped(tmp_path / "a.zip", {"a.bin": gzip.compress(bytes(range(256)))})
    with packed.seekable(tmp_path / "a.zip", "a.bin") as file:
        assert file.seek(-1, io.SEEK_END) == 255
