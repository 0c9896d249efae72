"""What is asked of a model, and what is made of its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation, Message
from hantune.evaluate.answers import evaluate_model, last_question
from hantune.infer.engine import Engine
from hantune.log import console


def conversation(*texts: str, number: int = 1) -> Conversation:
    roles: Any = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], text=text) for i, text in enumerate(texts))
    return Conversation(messages=messages, source=f"a.jsonl:{number}")


@pytest.fixture
def engine(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Engine:
    return Engine(tiny_llama(sp_tokenizer), Encoder(sp_tokenizer), get_template("llama2"))


def test_the_last_answer_is_asked_for_under_all_that_came_before() -> None:
    found = last_question(conversation("一", "二", "三", "四"))
    assert found is not None
    messages, reference, source = found
    assert ([message.text for message in messages], reference, source) == (["一", "二", "三"], "四", "a.jsonl:1")
    assert last_question(conversation("一")) is None
    assert last_question(Conversation(messages=())) is None


def test_answers_stand_beside_references_and_are_measured(engine: Engine) -> None:
    data = [conversation("你好", "好", number=1), conversation("你是谁？", "我", "再见", "晚安", number=2)]
    result = evaluate_model(engine, data, max_tokens=6)
    assert [(row["prompt"], row["reference"], row["source"]) for row in result["answers"]] == [
        ("你好", "好", "a.jsonl:1"), ("再见", "晚安", "a.jsonl:2"),
    ]  # fmt: skip
    assert result["metrics"]["count"] == 2
    assert result["metrics"]["stop_rate"] == sum(row["finish_reason"] == "stop" for row in result["answers"]) / 2
    assert result == evaluate_model(engine, data, max_tokens=6, batch_size=1)


def test_samples_are_drawn_by_the_seed_and_keep_their_order(engine: Engine) -> None:
    data = [conversation(f"第{i}个问题", "好", number=i) for i in range(30)]

    def asked(seed: int) -> list[str]:
        found = evaluate_model(engine, data, max_samples=5, max_tokens=1, seed=seed)
        return [row["source"] for row in found["answers"]]

    first = asked(1)
    assert first == asked(1) != asked(2)
    assert first == sorted(first, key=lambda source: int(source.split(":")[1]))
    assert first != [f"a.jsonl:{i}" for i in range(5)]


def test_a_question_longer_than_the_context_is_left_out_and_said(engine: Engine) -> None:
    engine.limit = 60
    console.warnings.clear()
    result = evaluate_model(engine, [conversation("今天天气很好" * 30, "好"), conversation("你好", "好")], max_tokens=2)
    assert [row["prompt"] for row in result["answers"]] == ["你好"]
    assert console.warnings == ["1 个问题比模型的上下文还长, 没有问"]


def test_no_data_gives_no_answers(engine: Engine) -> None:
    assert evaluate_model(engine, [])["metrics"]["count"] == 0
