"""Every container gives its rows with true line numbers; every bad file or line is named, none stops the rest."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.sources import Place, expand, inspect, read_parts, read_rows
from hantune.data.types import Reject, Row
from hantune.errors import DataError


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def rows(path: Path) -> list[tuple[str, Any]]:
    """(source, value or reason) of every record."""
    return [(row.source, row.value if isinstance(row, Row) else row.reason) for row in read_rows(path)]


A, B = {"question": "你好", "answer": "好"}, {"question": "再见", "answer": "回见"}
BOTH = [A, B]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in BOTH)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.jsonl", LINES, ["1", "2"]),
        ("a.json", LINES, ["1", "2"]),
        ("a.ndjson", "\n\n" + LINES.replace("\n", "\r\n\r\n"), ["3", "5"]),
        ("a.json", json.dumps(BOTH), ["1#1", "1#2"]),
        ("a.jsonl", json.dumps(BOTH), ["1#1", "1#2"]),
        ("a.json", json.dumps(BOTH, indent=2), ["2", "6"]),
        ("a.jsonl", json.dumps(BOTH, indent=2), ["2", "6"]),
        ("a.json", "\n" + json.dumps(BOTH, indent=2).replace("\n", "\r\n"), ["3", "7"]),
        ("a.json", f"[{json.dumps(A)},\n{json.dumps(B)}]", ["1#1", "2"]),
        ("a.json", f"[\n{json.dumps(A)},\n{json.dumps(B)}\n]", ["2", "3"]),
        ("a.json", f"[{json.dumps(A)}]\n[{json.dumps(B)}]", ["1", "2"]),
        ("a.json", json.dumps(A, indent=1) + "\n" + json.dumps(B, indent=1), ["1", "5"]),
        ("a.json", json.dumps({"data": BOTH}), ["1#1", "1#2"]),
        ("a.csv", "question,answer\n你好,好\n再见,回见\n", ["2", "3"]),
        ("a.csv", '\n\nquestion,answer\r\n"你好",好\r\n\r\n再见,回见', ["4", "6"]),
        ("a.tsv", "question\tanswer\n你好\t好\n再见\t回见\n", ["2", "3"]),
        ("a.csv", "question\tanswer\n你好\t好\n再见\t回见\n", ["2", "3"]),
    ],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_containers(tmp_path: Path, name: str, text: str, places: list[str], codec: str, is_gzip: bool) -> None:
    data = text.encode(codec)
    path = write(tmp_path / (name + ".gz" * is_gzip), gzip.compress(data) if is_gzip else data)
    if places == ["1", "2"] and text.startswith("[{"):  # two arrays, one a line: each line is a record
        assert [value for _, value in rows(path)] == [[A], [B]]
    else:
        assert rows(path) == [(f"{path.name}:{place}", row) for place, row in zip(places, BOTH, strict=True)]


def test_text_is_one_dialogue_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "你 好\t好\r\n\n再 见\t回 见\t嗯")
    assert rows(path) == [("a.txt:1", ["你 好", "好"]), ("a.txt:3", ["再 见", "回 见", "嗯"])]


@pytest.mark.parametrize("text", ['["你好", "好"]\n', '["你好", "好"]', '["你好", "好"]\n["再见", "回见"]\n'])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
def test_a_line_of_utterances_is_one_record(tmp_path: Path, name: str, text: str) -> None:
    assert rows(write(tmp_path / name, text))[0] == (f"{name}:1", ["你好", "好"])


def test_lccc_object_has_parts(tmp_path: Path) -> None:
    data = {"train": [["a", "b"], ["c", "d"]], "valid": [["e", "f"]], "test": [["g", "h"]]}
    for indent in (None, 1):
        path = write(tmp_path / "lccc.json", json.dumps(data, indent=indent))
        found = [(part, item.value) for part, item in read_parts(inspect(path)) if isinstance(item, Row)]
        assert found == [
            ("train", ["a", "b"]),
            ("train", ["c", "d"]),
            ("val", ["e", "f"]),
            ("test", ["g", "h"]),
        ]
    path = write(tmp_path / "lccc.json", json.dumps(data))
    assert [place for place, _ in rows(path)] == ["lccc.json:1#train.1", "lccc.json:1#train.2", "lccc.json:1#valid.1"]


def test_broken_lines_are_rejects_with_their_text(tmp_path: Path) -> None:
    lines = [
        b'{"question": "\xe4\xbd\xa0", "answer": "a"}',
        b'{"question": ',
        b'{"a": "\xff"}',
        b'{"a": "\\ud83d"}',
        b"{}",
    ]
    found = list(read_rows(write(tmp_path / "a.jsonl", b"\n".join(lines))))
    assert [type(item) for item in found] == [Row, Reject, Reject, Reject, Row]
    assert isinstance(found[1], Reject)
    assert (found[1].source, found[1].reason, found[1].record) == ("a.jsonl:2", "source.broken-json", '{"question": \n')
    long = next(iter(read_rows(write(tmp_path / "b.jsonl", '{"a": 1}\n{"a": "' + "好" * 9999 + "\n"))))
    assert isinstance(long, Row)
    cut = [item for item in read_rows(tmp_path / "b.jsonl") if isinstance(item, Reject)][0]
    assert len(cut.record) == 2000


def test_python_dicts_are_rejects_not_a_crash(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.json", "{'question': '你好', 'answer': '好'}\n" * 3))
    assert found == [(f"a.json:{line}", "source.broken-json") for line in (1, 2, 3)]


def test_csv_faults(tmp_path: Path) -> None:
    text = "question,answer\n多,了,一列\n少一列\n,\n\0你\0好,好\n" + "长" * 200_000 + ",好\n"
    found = rows(write(tmp_path / "a.csv", text))
    assert found[0] == ("a.csv:2", "source.broken-csv")
    assert found[1] == ("a.csv:3", {"question": "少一列", "answer": ""})
    assert found[2] == ("a.csv:5", {"question": "你好", "answer": "好"})
    assert found[3][0] == "a.csv:6"
    assert len(found[3][1]["question"]) == 200_000


def test_a_table_with_the_line_ends_of_old_macs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        rows(write(tmp_path / "a.csv", "question,answer\r你好,好\r"))
    assert (caught.value.code, caught.value.place) == ("source.broken-csv", "a.csv:1")


def test_a_quote_that_nobody_closed_is_one_reject_with_its_first_line(tmp_path: Path) -> None:
    text = 'question,answer\n你好,好\n"没有闭合,好\n' + "你好,好\n" * 2000
    assert rows(write(tmp_path / "a.csv", text))[1:] == [("a.csv:3", "source.broken-csv")]


def test_text_with_undecodable_bytes(tmp_path: Path) -> None:
    good = "你好\t好\n".encode() * 5
    found = rows(write(tmp_path / "a.txt", good + b"\xff\xfe\t\xe5\n"))
    assert found[-1] == ("a.txt:6", "source.broken-text")
    good = b"question,answer\n" + "你好,好\n".encode() * 5
    assert rows(write(tmp_path / "a.csv", good + b"\xff,b\n"))[-1] == ("a.csv:7", "source.broken-text")


def test_multi_line_cells_keep_the_line_count(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.csv", 'question,answer\n"一\n二\n三",好\n四,五\n'))
    assert [place for place, _ in found] == ["a.csv:2", "a.csv:5"]
    assert found[0][1]["question"] == "一\n二\n三"


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=8), st.integers(0, 2))
def test_any_text_survives_jsonl(pairs: list[tuple[str, str]], blank_lines: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        lines = [json.dumps({"q": q, "a": a}, ensure_ascii=True) for q, a in pairs]
        path.write_text("\n" * blank_lines + "\n".join(lines) + "{}", encoding="utf-8")
        found = [row.value for row in read_rows(path) if isinstance(row, Row)]
    assert found[: max(0, len(pairs) - 1)] == [{"q": q, "a": a} for q, a in pairs][:-1]


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "Excel"),
        ("a.json", b"7z\xbc\xaf" + b"\0" * 99, "7z"),
        ("a.tar", b"a.json".ljust(257, b"\0") + b"ustar" + b"\0" * 99, "tar"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "LFS"),
        ("a.json", b"<!DOCTYPE html><html></html>", "网页"),
        ("a.docx", "你好".encode(), "docx"),
        ("noname", "你好".encode(), "noname"),
    ],
)
def test_files_of_another_type_are_named(tmp_path: Path, name: str, data: bytes, word: str) -> None:
    with pytest.raises(DataError) as caught:
        inspect(write(tmp_path / name, data))
    assert caught.value.code == "source.wrong-type"
    assert word in caught.value.message


@pytest.mark.parametrize("data", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        inspect(write(tmp_path / "a.json", data))
    assert caught.value.code == "source.empty"


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "训练数据.json", "[]")
    with pytest.raises(DataError) as caught:
        expand(str(tmp_path / "训练数居.json"))
    assert caught.value.code == "source.missing"
    assert "训练数据.json" in str(caught.value.hint)
    with pytest.raises(DataError) as caught:
        expand(str(tmp_path / "没有" / "a.json"))
    assert caught.value.code == "source.missing"


def test_a_torn_gzip(tmp_path: Path) -> None:
    data = gzip.compress(LINES.encode() * 5000)
    path = write(tmp_path / "a.jsonl.gz", data[: len(data) // 2])
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert caught.value.code == "source.broken-gzip"


def test_gzip_is_told_by_its_bytes(tmp_path: Path) -> None:
    assert len(rows(write(tmp_path / "a.jsonl.gz", LINES))) == 2
    assert len(rows(write(tmp_path / "a.jsonl", gzip.compress(LINES.encode())))) == 2


def test_a_folder_is_its_data_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.jsonl", "a/z.csv", ".hidden.json", "readme.md", "c.json.gz"):
        write(tmp_path / "数据" / name, LINES)
    monkeypatch.chdir(tmp_path)
    assert [place.name for place in expand("数据")] == ["数据/a/z.csv", "数据/b.jsonl", "数据/c.json.gz"]
    absolute = expand(str(tmp_path / "数据"))
    assert [place.name for place in absolute] == ["数据/a/z.csv", "数据/b.jsonl", "数据/c.json.gz"]
    assert expand(str(tmp_path / "数据" / "b.jsonl")) == [Place(tmp_path / "数据" / "b.jsonl", "b.jsonl")]


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        expand(str(tmp_path))
    assert caught.value.code == "source.missing"
