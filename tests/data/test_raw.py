"""A raw file looks as it would be prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.data.prepare import prepare
from hantune.data.prepared import Prepared
from hantune.data.raw import RawData, open_data
from hantune.errors import DataError


def test_raw_and_prepared_give_the_same_conversations(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('["问", "答"]\n["只有问"]\n{broken\n["二", "答"]\n', encoding="utf-8")
    raw = open_data(str(source))
    assert isinstance(raw, RawData)
    found = list(raw.conversations("train"))
    assert raw.rejected == {"format.one-turn": 1, "source.broken-json": 1}
    assert raw.whys == ["a.jsonl: 像 lccc: 每条是一串句子, 一人一句"]
    assert not list(raw.conversations("val"))
    prepare([str(source)], tmp_path / "out", val_share=0)
    prepared = open_data(str(tmp_path / "out"))
    assert isinstance(prepared, Prepared)
    assert [(c.source, c.messages) for c in prepared.conversations("train")] == [(c.source, c.messages) for c in found]


def test_files_without_one_usable_record_are_an_error(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('["只有问"]\n["也是"]\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(RawData(str(source)).conversations("train"))
    assert caught.value.code == "data.nothing-usable"
    assert "只有一句话, 没有回答 (format.one-turn) 2 条" in caught.value.message
    assert caught.value.place == "a.jsonl:1"
