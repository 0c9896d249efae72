"""A ``dataset_info.json`` beside the data gives columns and speakers their usual names, and nothing is needed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.dataset_info import layout_of
from hantune.data.formats import FORMATS, detect
from hantune.data.sources import expand, inspect, read_rows
from hantune.data.types import Conversation, Row

TALK = {
    "file_name": "a.json", "formatting": "sharegpt", "columns": {"messages": "turns", "system": "sys"},
    "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "甲", "assistant_tag": "乙"},
}  # fmt: skip
ALPACA = {"file_name": "a.json", "columns": {"prompt": "题", "query": "料", "response": "解", "history": "前"}}
RANKED = {**TALK, "ranking": True, "columns": {"messages": "turns", "chosen": "好", "rejected": "坏"}}


def read(folder: Path, entry: dict[str, Any], record: dict[str, Any]) -> tuple[str, list[str]]:
    """The format found, and the texts of the one conversation."""
    (folder / "dataset_info.json").write_text(json.dumps({"其它": {"hf_hub_url": "a/b"}, "我的": entry}), "utf-8")
    (folder / "a.json").write_text(json.dumps([record]), encoding="utf-8")
    (place,) = expand(str(folder))
    rows = [row for row in read_rows(inspect(place)) if isinstance(row, Row)]
    found = detect(rows).name
    (conversation,) = FORMATS[found].read(rows[0])
    assert isinstance(conversation, Conversation)
    return found, [message.text for message in conversation.messages]


def test_columns_and_speakers_of_other_names(tmp_path: Path) -> None:
    turns = [{"who": "甲", "said": "问"}, {"who": "乙", "said": "答"}]
    assert read(tmp_path, TALK, {"turns": turns, "sys": "规矩"}) == ("sharegpt", ["规矩", "问", "答"])
    record = {"题": "问", "料": "", "解": "答", "前": [["早", "早"]], "output": "旧的"}
    assert read(tmp_path, ALPACA, record) == ("alpaca", ["早", "早", "问", "答"])
    record = {"turns": turns[:1], "好": turns[1], "坏": {"who": "乙", "said": "坏"}}
    assert read(tmp_path, RANKED, record) == ("preference", ["问", "答"])


def test_the_fingerprint_hangs_on_the_entry(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[{}]", encoding="utf-8")
    prints = {inspect(tmp_path / "a.json").sha256}
    for entry in (TALK, ALPACA):
        (tmp_path / "dataset_info.json").write_text(json.dumps({"x": entry}), encoding="utf-8")
        prints.add(inspect(tmp_path / "a.json").sha256)
    assert len(prints) == 3


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"x": 1}', '{"x": {"file_name": 3}}', '{"features": {}}'])
def test_files_of_that_name_that_say_nothing_here(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_info.json").write_text(text, encoding="utf-8")
    assert layout_of(tmp_path / "a.json") is None


def test_odd_entries_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"x": {"file_name": "a.json", "columns": {"prompt": 3}, "tags": []}}), encoding="utf-8"
    )
    layout = layout_of(tmp_path / "a.json")
    assert layout
    assert layout.apply({"question": "问"}) == {"question": "问"}
    assert layout.apply(["问", "答"]) == ["问", "答"]
