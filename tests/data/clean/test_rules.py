"""Each rule does what its line in the docs says, and leaves alone what it should."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.clean import rules
from hantune.data.clean.rules import DEFAULT, FILTERS, FIXES, NAMES
from hantune.data.types import Conversation, Message
from hantune.errors import MachineError


def talk(question: str, answer: str) -> Conversation:
    return Conversation(messages=(Message(role="user", text=question), Message(role="assistant", text=answer)))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("control", "你\u200b好\x07\u2028再见\ue000", "你好\n再见"),
        ("width", "ＡＢｃ１２，。！", "ABc12，。！"),
        ("markup", "一<br/>二<b>三</b>&nbsp;&lt;四&gt; a<b and c>d", "一\n二三 <四> a<b and c>d"),
        ("markup", "```<b>x</b>```", "```<b>x</b>```"),
        ("mention", "回复@小王:好的 @李四 在吗", "好的 在吗"),
        ("mention", "写到a@b.cn", "写到a@b.cn"),
        ("mention", "转发微博", ""),
        ("url", "看http://a.cn/x?y=1吧, www.b.com.", "看吧, "),
        ("emoji", "好😀的[微笑]☀️ [1]", "好的 [1]"),
        ("repeat", "哈哈哈哈哈哈!!!!!! 1000000 aaaaaa", "哈哈哈!!! 1000000 aaaaaa"),
        ("repeat", "我爱你我爱你我爱你我爱你", "我爱你"),
        ("repeat", "谢谢谢谢", "谢谢谢"),
        ("spaces", "你 好 , use  it \n\n\n\n再见  ", "你好 , use it\n\n再见"),
        ("spaces", "if x:\n    y", "if x:\n    y"),
    ],
)
def test_fixes(name: str, before: str, after: str) -> None:
    assert FIXES[name].fix(before) == after


def test_traditional_to_simplified(monkeypatch: pytest.MonkeyPatch) -> None:
    rules._converter.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(MachineError) as caught:
        rules.simplified("漢語")
    assert caught.value.code == "clean.no-opencc"
    monkeypatch.undo()
    pytest.importorskip("opencc")
    assert rules.simplified("漢語很難, 頭髮乾了 OK") == "汉语很难, 头发干了 OK"
    assert rules.simplified("plain") == "plain"


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("length", talk("?", "好"), talk("3?", "好")),
        ("looping", talk("问", "我不知道你在说什么" * 20), talk("问", "".join(map(chr, range(0x4E00, 0x4EA0))))),
        ("chinese", talk("hello there", "how are you"), talk("hello", "你好, 很高兴认识你")),
        ("template", talk("问", "好 [/INST] 再问"), talk("问", "好")),
        ("ads", talk("在吗", "兼职日结, 加我微信abc"), talk("在吗", "我在做兼职")),
    ],
)
def test_filters(name: str, bad: Conversation, good: Conversation) -> None:
    assert FILTERS[name].judge(bad)
    assert FILTERS[name].judge(good) is None


@given(st.text(max_size=60))
def test_fixing_twice_is_fixing_once(text: str) -> None:
    for name in ("control", "width", "emoji", "url"):
        once = FIXES[name].fix(text)
        assert FIXES[name].fix(once) == once


@pytest.mark.parametrize("piece", ["哈", "我爱", "@a", "http://a", " 你", "<b ", "\n ", "&#1", "[微", "(分享自 "])
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (30_000 // len(piece))
    begin = time.perf_counter()
    for name, rule in FIXES.items():
        if name != "simplified":
            rule.fix(text)
    for filter in FILTERS.values():
        filter.judge(talk("问", text))
    assert time.perf_counter() - begin < 2


def test_the_page_lists_every_rule_in_order() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "cleaning.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\w+) \| (√?) ?\|", page, re.MULTILINE)
    assert tuple(name for name, _ in listed) == NAMES
    assert tuple(name for name, mark in listed if mark) == DEFAULT
