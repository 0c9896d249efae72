"""Text files of every layout, and those that are too much: one long line, ten thousand columns, no end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data import rows as module
from hantune.data.formats import detect
from hantune.data.sources import inspect, read_rows
from hantune.data.types import Reject, Row
from hantune.errors import DataError


def rows(path: Path, data: str | bytes) -> list[tuple[str, Any]]:
    """(place without the file's name, value or reason)."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return [
        (item.source.removeprefix(path.name), item.value if isinstance(item, Row) else item.reason)
        for item in read_rows(path)
    ]


RECORD = {"question": "问", "answer": "答"}


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_of_numbered_records(tmp_path: Path, indent: int | None) -> None:
    text = json.dumps({"11290": RECORD, "9": RECORD}, indent=indent)
    lines = (1, 1) if indent is None else (2, 6)
    assert rows(tmp_path / "a.json", text) == [(f":{lines[0]}#11290", RECORD), (f":{lines[1]}#9", RECORD)]


def test_a_broken_value_among_numbered_records(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.json", '{"1": {"a": 1}, "2": {"a": nope}, "3": {"a": 3}}')
    assert found == [(":1#1", {"a": 1}), (":1#2", "source.broken-json"), (":1#3", {"a": 3})]


def test_paragraphs_stand_at_their_first_line(tmp_path: Path) -> None:
    text = "\n第一行\n第二行\r\n\r\n\n第二段\n  \n第三段"
    assert rows(tmp_path / "a.txt", text) == [
        (":2", {"text": "第一行\n第二行"}),
        (":6", {"text": "第二段"}),
        (":8", {"text": "第三段"}),
    ]


def test_without_blank_lines_each_line_is_a_paragraph(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.md", "# 标题\n第一段\n第二段\n") == [
        (":1", {"text": "# 标题"}),
        (":2", {"text": "第一段"}),
        (":3", {"text": "第二段"}),
    ]


def test_a_paragraph_without_end_is_cut_at_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PARAGRAPH_CHARACTERS", 10)
    found = rows(tmp_path / "a.txt", "头\n\n" + "一二三四五\n" * 5)
    assert [(place, len(value["text"])) for place, value in found] == [(":1", 1), (":3", 11), (":5", 11), (":7", 5)]


def test_undecodable_paragraphs(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.txt", "好的一段\n\n".encode() * 5 + b"\xff\xfe\n")
    assert found[-1] == (":11", "source.broken-text")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030"])
def test_a_line_too_long_to_hold_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str
) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 64)
    good = {"a.jsonl": '["问", "答"]\n', "a.txt": "问\t答\n", "a.csv": "问,答\n"}[name]
    found = rows(tmp_path / name, (good * 3 + "长" * 1000 + "\n" + good).encode(codec))
    kept = [value for _, value in found if value not in ("source.too-long", "source.broken-csv")]
    if name != "a.csv":  # a table gets its long line in pieces: each is a row of its own
        assert (":4", "source.too-long") in found
        assert kept == [["问", "答"]] * 4
    else:
        assert kept[-1] == kept[0] == {"问": "问", "答": "答"}


@pytest.mark.parametrize("megabytes", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_line_of_many_megabytes(tmp_path: Path, name: str, megabytes: int) -> None:
    long = json.dumps({"question": "问" * (megabytes * 350_000), "answer": "答"}, ensure_ascii=False)
    assert len(long.encode()) > megabytes * 1_000_000
    found = rows(tmp_path / name, f"{json.dumps(RECORD)}\n{long}\n{json.dumps(RECORD)}\n")
    assert [value["answer"] for _, value in found] == ["答"] * 3
    broken = rows(tmp_path / name, f"{json.dumps(RECORD)}\n{long[:-3]}\n{json.dumps(RECORD)}\n")
    assert [value for _, value in broken] == [RECORD, "source.broken-json", RECORD]


def test_ten_thousand_columns(tmp_path: Path) -> None:
    names = [f"列{number}" for number in range(10_000)]
    found = rows(tmp_path / "a.csv", ",".join(names) + "\n" + ",".join("x" * 10_000) + "\n")
    with pytest.raises(DataError) as caught:
        detect([Row(value=found[0][1], source="a.csv:2")])
    assert caught.value.code == "format.unknown-fields"
    assert len(caught.value.message) < 500
    found = rows(tmp_path / "b.csv", ",".join([*names, "问题", "回答"]) + "\n" + "," * 10_000 + "问,答"[1:] + "\n")
    assert detect([Row(value=found[0][1], source="b.csv:2")]).name == "pairs"


def test_rejects_of_every_kind_carry_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n{\n", encoding="utf-8")
    rejects = [item for item in read_rows(inspect(tmp_path / "a.jsonl")) if isinstance(item, Reject)]
    assert [reject.source for reject in rejects] == ["a.jsonl:2"]
