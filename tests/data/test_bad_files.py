"""Bad files as users meet them, all the way through ``prepare``: named, refused, and nothing half-written left."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from hantune.data import packed, rows
from hantune.data.prepare import prepare
from hantune.data.sources import expand, inspect, read_rows
from hantune.errors import DataError, HantuneError
from hantune.log import console
from tests.data.test_tables import WRITERS
from tests.data.workbook import write_workbook

GOOD = "".join(json.dumps({"question": f"问{n}", "answer": "答"}, ensure_ascii=False) + "\n" for n in range(200))
XLS = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600
TORN = gzip.compress(GOOD.encode() * 200)


def refused(sources: Path, out: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        prepare([str(sources)], out)
    assert caught.value.exit_code == 5
    assert not [path for path in out.parent.iterdir() if path.name != "in"], "nothing is left behind"
    return caught.value


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


BAD = {
    "聊天.csv": (XLS, "source.wrong-type", "旧版 Excel"),
    "坏.jsonl.gz": (TORN[: len(TORN) // 2], "source.broken-gzip", "没有下载完"),
    "外.zip": (zipped("../../x.jsonl", GOOD.encode()), "source.unsafe-archive", "外面"),
    "炸弹.zip": (zipped("a.jsonl", b" " * (8 << 20)), "source.unsafe-archive", "炸弹"),
    "网页.json": (b"<!DOCTYPE html><html></html>", "source.wrong-type", "网页"),
    "指针.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "source.wrong-type", "LFS"),
    "文档.zip": (zipped("word/document.xml", b"<a/>"), "source.wrong-type", "Word"),
    "列.csv": ((",".join(f"c{n}" for n in range(10_000)) + "\n1\n").encode(), "format.unknown-fields", "c0"),
    "空.json": (b"", "source.empty", "空的"),
    "半.parquet": (b"PAR1" + b"\1" * 99, "source.broken-table", "不完整"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("with_good", [False, True])
def test_a_bad_file_alone_or_beside_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, with_good: bool
) -> None:
    monkeypatch.setattr(packed, "BOMB_BYTES", 4 << 20)
    data, code, words = BAD[name]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(data)
    if with_good:
        (folder / "a_good.jsonl").write_text(GOOD, encoding="utf-8")
    error = refused(folder, tmp_path / "out")
    assert error.code == code
    assert words in error.message
    assert name in str(error.place)


@pytest.mark.parametrize(
    ("name", "way"),
    [("聊天.csv", "另存为"), ("网页.json", "再下载一次"), ("指针.jsonl", "git lfs pull"), ("文档.zip", "纯文本")],
)
def test_every_wrong_type_has_a_way_of_its_own(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(BAD[name][0])
    assert way in str(refused(tmp_path / "in", tmp_path / "out").hint)


@pytest.mark.parametrize(
    ("megabytes", "longest", "is_kept"),
    [
        (1, 2, True),
        (3, 2, False),
        pytest.param(54, 64, True, marks=pytest.mark.slow),
        pytest.param(66, 64, False, marks=pytest.mark.slow),
    ],
)
def test_one_line_of_many_megabytes(
    tmp_path: Path, megabytes: int, longest: int, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST_LINE", longest << 20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "' + "a" * (megabytes << 20) + '", "answer": "b"}\n' + GOOD, encoding="utf-8")
    manifest = prepare([str(path)], tmp_path / "out", workers=1)
    assert manifest["dropped"] == ({} if is_kept else {"source.too-long": 1})
    assert manifest["kept"] == 200 + is_kept


def test_a_missing_end_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"question": "问", "answer": "答"}', encoding="utf-8")
    console.warnings.clear()
    prepare([str(path)], tmp_path / "out")
    assert capsys.readouterr().err.count("文件结尾少了 ]") == 1


SEEDS = {
    "a.json": json.dumps({"train": [{"question": "问", "answer": "答"}] * 9}, ensure_ascii=False).encode(),
    "b.json": json.dumps({str(n): {"text": "字"} for n in range(9)}, indent=1, ensure_ascii=False).encode(),
    "c.jsonl.gz": gzip.compress(GOOD.encode()),
    "d.csv": 'question,answer\n"问\n题",答\n'.encode() * 5,
    "e.txt": "一段\n\n另一段\n".encode() * 5,
    "f.zip": zipped("a.jsonl", GOOD.encode()),
    "g.jsonl.zst": bytes(pa.Codec("zstd").compress(GOOD.encode()).to_pybytes()),
}


@pytest.mark.parametrize("name", [*SEEDS, "h.parquet", "i.arrow", "j.arrow", "k.xlsx"])
def test_no_damage_whatever_is_more_than_an_error_with_a_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in SEEDS:
        path.write_bytes(SEEDS[name])
    elif name == "k.xlsx":
        write_workbook(path, {"一": [["问题", "回答"], *[["问", "答"]] * 9]})
    else:
        WRITERS[{"h.parquet": "a.parquet", "i.arrow": "a.arrow", "j.arrow": "b.arrow"}[name]](
            path, pa.Table.from_pylist([{"question": "问", "answer": "答"}] * 9)
        )
    whole, dice = path.read_bytes(), random.Random(name)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 2, 9))):
            at = dice.randrange(len(data))
            data[at : at + dice.randrange(3)] = dice.choice((b"", dice.randbytes(1), dice.randbytes(4), b'"', b"\0"))
        path.write_bytes(data if dice.random() < 0.8 else data[: dice.randrange(len(data))])
        with contextlib.suppress(HantuneError):
            for place in expand(str(path)):
                list(read_rows(inspect(place)))


def test_a_folder_of_good_files_of_many_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(GOOD, encoding="utf-8")
    (folder / "b.csv.gz").write_bytes(gzip.compress("问题,回答\n甲,乙\n".encode("gb18030")))
    (folder / "c.zip").write_bytes(zipped("d/内.json", json.dumps({"text": "一段文字"}).encode()))
    (folder / "README.md").write_text("# 说明", encoding="utf-8")
    manifest = prepare([str(folder)], tmp_path / "out")
    assert [(source["path"], source["format"]) for source in manifest["sources"]] == [
        ("in/a.jsonl", "pairs"),
        ("in/b.csv.gz", "pairs"),
        ("in/c.zip/d/内.json", "text"),
    ]
    assert manifest["kept"] == 202


def test_a_table_as_flagalpha_publishes_it(tmp_path: Path) -> None:
    long = "长" * 200_000
    text = f'text\n"<s>Human: 问\n</s><s>Assistant: {long}\n</s>"\n'
    (tmp_path / "train_sft.csv").write_text(text, encoding="utf-8-sig")
    manifest = prepare([str(tmp_path / "train_sft.csv")], tmp_path / "out")
    assert (manifest["sources"][0]["format"], manifest["kept"]) == ("flagalpha", 1)


def test_samples_of_several_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(GOOD.replace("问", "再问"), encoding="utf-8")
    given = [f"{tmp_path / 'a.jsonl'}#50", f"{tmp_path / 'b.jsonl'}:0.2"]
    manifest = prepare(given, tmp_path / "out")
    first, second = manifest["sources"]
    assert (first["path"], first["read"]) == ("a.jsonl#50", 50)
    assert second["path"] == "b.jsonl:0.2"
    assert 20 <= second["read"] <= 60
    assert prepare(given, tmp_path / "again")["fingerprint"] == manifest["fingerprint"]
    assert prepare([f"{tmp_path / 'a.jsonl'}#51", given[1]], tmp_path / "more")["key"] != manifest["key"]
