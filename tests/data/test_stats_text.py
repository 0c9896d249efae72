"""The figures in words: nothing that a GBK console cannot show, no share that rounds to a lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.card import card
from hantune.data.prepare import prepare
from hantune.data.prepared import open_prepared
from hantune.data.sketch import sketch
from hantune.data.stats import Model, statistics
from hantune.data.stats_text import as_markdown, as_text, mix, percent, repeated
from hantune.data.templates import get_template
from tests.data.dialogues import encoder_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"question": f"第{n % 30}个问题?", "answer": f"回答 ok {n % 30}" * (n % 3 + 1)} for n in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare([str(tmp_path / "a.jsonl")], tmp_path / "out")
    return tmp_path / "out"


def test_as_text(folder: Path, sp_tokenizer: Any) -> None:
    models = [Model(name, encoder_of(sp_tokenizer), get_template("llama2")) for name in ("甲", "乙")]
    result = statistics(open_prepared(folder), models)
    text = as_text(result)
    assert text.encode("gbk")
    assert f"对话    90 段 (训练 {result['train']}, 验证 {result['val']})" in text
    for words in ("轮数    平均 1.0", "短回答  不到 8 个字的占", "重复    ", "分词器  甲 (", "分词器  乙", "1024 时"):
        assert words in text
    assert text.splitlines()[-1].startswith("! ")
    assert as_text(statistics(open_prepared(folder))).count("分词器") == 0


def test_the_card_tells_what_the_data_are_like(folder: Path) -> None:
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert text.encode("gbk")
    manifest, found = open_prepared(folder).manifest, sketch(folder)
    assert text == card(manifest, found)
    assert "## 数据是什么样的" in text
    assert f"| 重复 | {repeated(found['duplicates'])} |" in text
    assert "抽出" not in text
    assert "均匀抽出的 20 段" in "\n".join(as_markdown({**found, "sampled": 20}))
    assert "数据是什么样的" not in card(manifest, {**found, "rows": 0})


def test_shares() -> None:
    values = (0, 0.0001, 0.001, 0.5, 0.9994, 0.9999, 1)
    assert [percent(value) for value in values] == ["0%", "<0.1%", "0.1%", "50.0%", "99.9%", ">99.9%", "100%"]
    assert mix({"chinese": 0.9, "mixed": 0, "english": 0.1, "other": 0, "none": 0}) == "中文 90.0%, 英文 10.0%"
    assert mix(dict.fromkeys(("chinese", "mixed", "english", "other", "none"), 0)) == "─"
