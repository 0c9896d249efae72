"""The page of figures: one file, inert, the same bytes each time, with what was asked for and nothing private."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.prepare import prepare
from hantune.data.prepared import open_prepared
from hantune.data.stats import Model, statistics
from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.report.data_page import render, write_data_page
from tests.report.test_page import EVIL, Page


@pytest.fixture
def result(tmp_path: Path, sp_tokenizer: Any) -> dict[str, Any]:
    rows = [{"question": f"秘密{n}", "answer": "答" * (n * n % 700 + 1)} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare([str(tmp_path / "a.jsonl")], tmp_path / "out")
    models = [Model(name, Encoder(sp_tokenizer), get_template("llama2")) for name in ("分词器甲", EVIL)]
    return statistics(open_prepared(tmp_path / "out"), models)


def test_the_page_is_inert_and_needs_nothing(result: dict[str, Any]) -> None:
    page = Page(render(result, "/home/someone/对话.jsonl"))
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "object"})
    assert page.links == []
    assert not [name for name in page.attributes if name.startswith("on")]
    words = "".join(page.words)
    for said in ("汉调数据统计", "对话.jsonl", "分词器甲", "每个汉字", "中文", "重复"):
        assert said in words
    assert EVIL in words
    assert "someone" not in words
    assert "秘密" not in words


def test_the_same_figures_give_the_same_bytes(result: dict[str, Any]) -> None:
    assert render(result, "a") == render(result, "a")


def test_charts_by_what_there_is(result: dict[str, Any]) -> None:
    assert render(result, "a").count("<svg") == 4 + 2 * 2
    bare = {name: value for name, value in result.items() if name != "tokens"}
    page = render(bare, "a")
    assert page.count("<svg") == 4
    assert 'id="tokens"' not in page


def test_data_without_anything(tmp_path: Path) -> None:
    class Nothing:
        def conversations(self, part: str) -> Any:
            return iter(())

    assert "0 段对话" in "".join(Page(render(statistics(Nothing()), "a")).words)


def test_where_it_is_written(result: dict[str, Any], tmp_path: Path) -> None:
    assert write_data_page(result, "a", tmp_path) == tmp_path / "stats.html"
    path = write_data_page(result, "a", tmp_path / "图.html")
    assert path.read_bytes() == (tmp_path / "stats.html").read_bytes()
