"""What the screen passes is what no rule touches: rules run on it change and drop nothing."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.clean.pipeline import Pipeline
from hantune.data.clean.rules import FILTERS, FIXES, MOST_CHARACTERS, NAMES
from hantune.data.clean.screen import Screen, repeated
from hantune.data.lines import LONGEST
from hantune.data.prepare import prepare
from hantune.data.types import Conversation, Message
from tests.laws import examples

RULES = tuple(name for name in NAMES if name != "simplified")  # opencc is an extra
SPICES = (
    "<b>", "&nbsp;", "@小王 ", "转发微博", "http://a.cn", "WWW.a.b", "t.cn/abc", "T.CN/x", "哈哈哈哈", "好的" * 4,
    "  ", "\u3000", "\t", "。。。。", "!", "１２", "ｖ", "\u200b", "\x85", "[INST]", "</s>", "{instruction}", "[微笑]",
    "### Response:", "兼职加微信", "日结 私聊", "hello world", "😀", "是的" * 40, "x" * 61, "龘", "屏蔽", "(分享自 @x)",
    "\n\n\n", "a.b",
)  # fmt: skip
texts = st.lists(st.sampled_from(SPICES) | st.text("你好吗我在,a1 。😂é", max_size=6), min_size=1, max_size=5).map(
    "".join
)


@functools.cache
def pipeline_of(names: str) -> Pipeline:
    return Pipeline(tuple(names.split(",")), blocked=("屏蔽", "龘"))


@given(st.lists(texts.filter(str.strip), min_size=1, max_size=5), st.sampled_from([*RULES, ",".join(RULES)]))
@examples(80, 400)
def test_no_rule_touches_what_the_screen_passes(given: list[str], names: str) -> None:
    pipeline = pipeline_of(names)
    assert pipeline.acts_on is not None
    data = [text.encode() for text in given]
    acts = pipeline.acts_on(b"".join(data), np.cumsum([len(each) for each in data]))
    for text, may_act in zip(given, acts.tolist(), strict=True):
        conversation = Conversation(messages=(Message(role="assistant", text=text),), source="a:1")
        assert may_act or pipeline.conversation(conversation) is conversation


def test_a_rule_that_acts_somewhere_has_a_text_that_shows_it() -> None:
    """Else the test above could not fail."""
    for name in RULES:
        given = [Conversation(messages=(Message(role="assistant", text=text),)) for text in (*SPICES, "abc " * 9)]
        assert any(Pipeline((name,)).conversation(each) is not each for each in given), name


def test_screens_let_most_of_plain_talk_pass() -> None:
    plain = ["今天天气怎么样", "还不错,出去走走吧", "好的。明天见!", "我在学 Python"]
    data = [text.encode() for text in plain]
    screen = Screen([rule.hint() for name, rule in (FIXES | FILTERS).items() if name not in ("simplified", "spaces")])
    assert screen(b"".join(data), np.cumsum([len(each) for each in data])).sum() == 0


@pytest.mark.parametrize(
    ("text", "is_there"), [("abcabcabc", False), ("abcabcabcabc", True), ("xaaaay", True), ("aaa", False)]
)
def test_repetitions(text: str, is_there: bool) -> None:
    points = np.array([ord(letter) for letter in text], np.uint32)
    assert repeated(8, 4)(points, np.array([len(text)])).tolist() == [is_there]


def test_lines_that_may_be_too_long_are_read_one_by_one() -> None:
    assert LONGEST <= MOST_CHARACTERS


def test_cleaning_at_once_is_cleaning_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogues = [[f"你 好 {number}", spice] for number in range(60) for spice in SPICES]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, dialogues)))
    found = []
    for name in ("one", "two"):
        prepare([str(tmp_path / "a.jsonl")], tmp_path / name, clean="default", dedup="exact")
        manifest = json.loads((tmp_path / name / "manifest.json").read_bytes())
        found.append([manifest, (tmp_path / name / "rejects.jsonl").read_bytes()])
        monkeypatch.setattr("hantune.data.blocks.read_lines", lambda *_: None)
    assert found[0] == found[1]
    assert found[0][0]["clean"]["changed"]
