"""The rules in their order, each change counted and shown, private values out before anything is written down."""

from __future__ import annotations

import pytest

from hantune.data.clean.pipeline import Pipeline, chosen_rules
from hantune.data.clean.rules import DEFAULT, NAMES
from hantune.data.types import Conversation, Message, Reject
from hantune.errors import ConfigError


def talk(question: str, answer: str) -> Conversation:
    messages = (Message(role="user", text=question), Message(role="assistant", text=answer, learn=False))
    return Conversation(messages=messages, source="a:1", meta={"session": "s"})


def test_rules_are_chosen_by_name() -> None:
    assert chosen_rules(None) == chosen_rules("off") == ()
    assert chosen_rules("default") == DEFAULT
    assert chosen_rules("all") == NAMES
    assert chosen_rules("spaces, control") == ("control", "spaces")
    assert chosen_rules("default,emoji,-url") == tuple(n for n in NAMES if n in (*DEFAULT, "emoji") and n != "url")
    with pytest.raises(ConfigError, match="emoji") as caught:
        chosen_rules("emojis")
    assert caught.value.code == "clean.unknown-rule"


def test_changes_are_counted_and_shown() -> None:
    pipeline = Pipeline(("control", "spaces"))
    pipeline.start(None)
    for _ in range(5):
        found = pipeline.conversation(talk("你 好", "在\u200b的"))
        assert isinstance(found, Conversation)
    assert [(m.text, m.learn) for m in found.messages] == [("你好", None), ("在的", False)]
    assert (found.source, found.meta) == ("a:1", {"session": "s"})
    told = pipeline.report()["clean"]
    assert told["changed"] == {"control": 5, "spaces": 5}
    assert told["samples"]["spaces"] == [{"source": "a:1", "before": "你 好", "after": "你好"}] * 3
    assert Pipeline().report() == {}


def test_what_is_dropped_says_why() -> None:
    pipeline = Pipeline(("mention", "template"), blocked=["发票"])
    for conversation, reason in (
        (talk("转发微博", "好"), "clean.empty"),
        (talk("问", "[INST]"), "clean.template"),
        (talk("代开发票", "好"), "clean.blocked"),
    ):
        reject = pipeline.conversation(conversation)
        assert isinstance(reject, Reject)
        assert (reject.reason, reject.source) == (reason, "a:1")


def test_chat_logs_are_masked_by_default_and_others_are_not() -> None:
    pipeline = Pipeline(("spaces",))
    told = talk("张三 的电话 13800138000", "好  的")
    pipeline.start(None)
    assert "13800138000" in str(pipeline.conversation(told))
    assert pipeline.name("张三.txt") == "张三.txt"
    assert not pipeline.has_masked
    pipeline.start([("张三", "老张")])
    assert "13800138000" not in str(pipeline.conversation(told))
    assert pipeline.name("张三.txt") == "<人1>.txt"
    assert pipeline.reject(Reject(source="a", reason="r", detail="老张", record={"x": "张三"})).record == {"x": "<人1>"}
    assert pipeline.has_masked
    assert pipeline.report()["pii"]["found"] == {"人": 4, "手机": 1}


def test_drop_leaves_nothing_of_the_value() -> None:
    pipeline = Pipeline(pii="drop")
    pipeline.start(None)
    reject = pipeline.conversation(talk("电话13800138000", "好"))
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.detail, reject.record) == ("pii.found", "有隐私内容: 手机 1 处", None)
    assert isinstance(pipeline.conversation(talk("你好", "好")), Conversation)
    other = pipeline.reject(Reject(source="a", reason="r", detail="", record="13800138000"))
    assert other.record == "<手机1>"
    assert not pipeline.has_masked
