"""Parquet, Arrow and Excel give the records that JSON would; torn tables and odd columns do not stop a program."""

from __future__ import annotations

import datetime
import gzip
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hantune.data import packed
from hantune.data.sources import expand, inspect, read_parts, read_rows
from hantune.data.tables import as_json
from hantune.data.types import Row
from hantune.errors import DataError
from hantune.log import console
from tests.data.workbook import write_workbook

ROWS = [{"question": f"问{n}", "answer": "答", "score": n / 2} for n in range(2500)]


def stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)


def arrow_file(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)


WRITERS = {"a.parquet": lambda path, table: pq.write_table(table, path), "a.arrow": arrow_file, "b.arrow": stream}


def rows(path: Path) -> list[tuple[str, Any]]:
    return [(item.source, item.value if isinstance(item, Row) else item.reason) for item in read_rows(path)]


@pytest.mark.parametrize("name", WRITERS)
def test_arrow_tables_packed_or_not(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, pa.Table.from_pylist(ROWS))
    expected = [(f"{name}:{number}", row) for number, row in enumerate(ROWS, 1)]
    assert rows(tmp_path / name) == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert [value for _, value in rows(tmp_path / f"{name}.gz")] == ROWS
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
        archive.write(tmp_path / name, name)
    (place,) = expand(str(tmp_path / f"{name}.zip"))
    assert [item.value for item in read_rows(inspect(place)) if isinstance(item, Row)] == ROWS


@pytest.mark.parametrize("name", WRITERS)
def test_torn_tables(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, pa.Table.from_pylist(ROWS))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError) as caught:
        rows(tmp_path / name)
    assert caught.value.code == "source.broken-table"


def test_columns_that_json_has_not(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 1, 2, 3, 4, 5)
    turns = {"from": ["human", "gpt"], "value": ["问", "答"]}
    table = pa.table({"when": [day], "raw": [b"abc"], "text": ["好"], "conversations": [turns]})
    pq.write_table(table, tmp_path / "a.parquet")
    ((_, value),) = rows(tmp_path / "a.parquet")
    assert value == {
        "when": "2024-01-02T03:04:05",
        "raw": "<3 bytes>",
        "text": "好",
        "conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}],
    }
    assert as_json({1: [(b"x", datetime.time(1, 2))]}) == {"1": [["<1 bytes>", "01:02:00"]]}


def test_bytes_that_are_no_text_are_one_reject(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff\xfe", b"b"]).cast(pa.binary()).view(pa.string())
    arrow_file(tmp_path / "a.arrow", pa.table({"text": texts}))
    assert [value for _, value in rows(tmp_path / "a.arrow")] == [{"text": "a"}, "source.broken-text", {"text": "b"}]


def test_offsets_that_lead_out_of_the_file(tmp_path: Path) -> None:
    offsets = pa.array([0, 1 << 28, 3], pa.int32()).buffers()[1]
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abc")])
    arrow_file(tmp_path / "a.arrow", pa.table({"text": texts}))
    with pytest.raises(DataError) as caught:
        rows(tmp_path / "a.arrow")
    assert caught.value.code == "source.broken-table"


def test_a_workbook_gives_the_rows_under_its_header(tmp_path: Path) -> None:
    path = write_workbook(
        tmp_path / "问答.xlsx",
        {"空": [], "一": [[], ["问题", "回答", ""], ["你好", 3], ["", "", ""], ["再<见", 3.5, "多"]], "二": [["甲"]]},
    )
    console.warnings.clear()
    assert rows(path) == [
        ("问答.xlsx:3", {"问题": "你好", "回答": "3"}),
        ("问答.xlsx:5", {"问题": "再<见", "回答": "3.5"}),
    ]
    assert "没有读 二" in console.warnings[-1]
    path.rename(tmp_path / "其实是表格.csv")
    assert len(rows(tmp_path / "其实是表格.csv")) == 2
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "其实是表格.csv", "a.xlsx")
    assert len(rows(tmp_path / "a.zip")) == 2


def test_an_empty_and_a_torn_workbook(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        rows(write_workbook(tmp_path / "a.xlsx", {"空": []}))
    assert caught.value.code == "source.empty"
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<nothing")
    with pytest.raises(DataError) as caught:
        rows(tmp_path / "b.xlsx")
    assert caught.value.code == "source.broken-table"


def test_a_lone_cell_far_out_does_not_fill_the_memory(tmp_path: Path) -> None:
    rows: list[list[str | float]] = [["问题", "回答"], ["你好", "好"]]
    write_workbook(tmp_path / "a.xlsx", {"一": rows})
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for place, is_far in (("AA1000", False), ("XFD1048576", True)):
        cell = f'<row><c s="1" r="{place}" t="inlineStr"><is><t>x</t></is></c></row></sheetData>'.encode()
        with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data.replace(b"</sheetData>", cell))
        if not is_far:
            assert len(list(read_rows(tmp_path / "b.xlsx"))) >= 1
            continue
        with pytest.raises(DataError) as caught:
            list(read_rows(tmp_path / "b.xlsx"))
        assert caught.value.code == "source.broken-table"
        assert "1048576 行, 最右到第 XFD 列" in caught.value.message


def test_a_workbook_that_is_a_bomb_in_another_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BOMB_BYTES", 1 << 20)
    write_workbook(tmp_path / "a.xlsx", {"一": [["x" * (4 << 20)]]})
    (tmp_path / "a.xlsx.gz").write_bytes(gzip.compress((tmp_path / "a.xlsx").read_bytes(), 0))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "a.xlsx", "a.xlsx")
    for name in ("a.xlsx", "b.zip"):
        with pytest.raises(DataError) as caught:
            list(read_rows(tmp_path / name))
        assert caught.value.code == "source.unsafe-archive"


def saved(folder: Path, table: pa.Table, shards: int = 2) -> None:
    """What ``Dataset.save_to_disk`` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{shards:05}.arrow" for n in range(shards)]
    for number, name in enumerate(names):
        stream(folder / name, table.slice(number * 10, 10))
    files = ", ".join(f'{{"filename": "{name}"}}' for name in names)
    (folder / "state.json").write_text(f'{{"_data_files": [{files}], "_split": null}}', encoding="utf-8")
    (folder / "dataset_info.json").write_text('{"features": {}, "splits": {}}', encoding="utf-8")


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    saved(tmp_path / "one", pa.Table.from_pylist(ROWS[:20]))
    assert [place.name for place in expand(str(tmp_path / "one"))] == [
        "one/data-00000-of-00002.arrow",
        "one/data-00001-of-00002.arrow",
    ]
    for split in ("train", "validation", "test"):
        saved(tmp_path / "many" / split, pa.Table.from_pylist(ROWS[:10]), shards=1)
    (tmp_path / "many" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}', "utf-8")
    files = [inspect(place) for place in expand(str(tmp_path / "many"))]
    assert [part for file in files for part, _ in read_parts(file)] == ["train"] * 10 + ["val"] * 10 + ["test"] * 10
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError) as caught:
        expand(str(tmp_path / "one"))
    assert caught.value.code == "source.missing"
