"""What a file holds is told from its content; a name decides only where the content cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.container import container_of, suffix_of
from hantune.errors import DataError

RECORD = '{"question": "问", "answer": "答"}'
LONG = json.dumps([{"question": "问" * 99, "answer": "答"}] * 900, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "text", "layout"),
    [
        ("a.jsonl", f"{RECORD}\n{RECORD}\n", "lines"),
        ("a.json", f"{RECORD}\n{RECORD}\n", "lines"),
        ("a.json", RECORD, "lines"),
        ("a.json", f"{{broken\n{RECORD}\n", "lines"),
        ("a.jsonl", "{broken\n{broken\n", "lines"),
        ("a.jsonl", "broken\nbroken\n", "lines"),
        ("a.json", f"[{RECORD}, {RECORD}]", "array"),
        ("a.jsonl", f"[{RECORD}]", "array"),
        ("a.jsonl", f"[\n{RECORD}\n]", "array"),
        ("a.json", f"[{RECORD},\n{RECORD}]", "array"),
        ("a.json", '[["问", "答"], ["问", "答"]]', "array"),
        ("a.json", LONG, "array"),
        ("a.jsonl", LONG, "array"),
        ("a.json", '["问", "答"]\n["问", "答"]', "lines"),
        ("a.jsonl", '[{"role": "user", "content": "问"}]', "lines"),
        ("a.json", '{"train": [["问", "答"]]}', "parts"),
        ("a.json", '{\n  "train": [\n    ["问", "答"]\n  ]\n}', "parts"),
        ("a.json", '{"train": ' + LONG + "}", "parts"),
        ("a.json", json.dumps({"question": "问", "answer": "答"}, indent=1), "values"),
        ("a.jsonl", '{"question": "' + "长" * 70_000 + f'"}}\n{RECORD}', "lines"),
        ("a.txt", "问\t答\n", "text"),
        ("a.txt", "问\t答\n\n问\t答\n一句\n", "text"),
        ("a.txt", "第一段.\n\n第二段.\n", "prose"),
        ("a.md", "# 标题\n", "prose"),
        ("a.json", '{"11290": {"messages": []}}', "keyed"),
        ("a.json", '{\n  "11290": {\n    "messages": []}}', "keyed"),
        ("a.txt", f"{RECORD}\n", "lines"),
        ("a.csv", "question,answer\n", "csv"),
        ("a.tsv.gz", "question\tanswer\n", "csv"),
        ("noname", f"{RECORD}\n", "lines"),
    ],
)
def test_layouts(tmp_path: Path, name: str, text: str, layout: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert container_of(tmp_path / name, "utf-8") == layout


def test_text_under_an_unknown_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.rtf").write_text("你好", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        container_of(tmp_path / "a.rtf", "utf-8")
    assert caught.value.code == "source.wrong-type"


def test_suffixes() -> None:
    names = ("a.JSON", "a.csv.gz", "a.parquet.zst", "a.json.zip", "a.zip", "b.gz", "c")
    assert [suffix_of(Path(name)) for name in names] == [".json", ".csv", ".parquet", ".json", ".zip", "", ""]
