"""From requests to the engine's parameters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hantune.serve.errors import ApiError
from hantune.serve.openai import (
    DEFAULT_TOKENS,
    MOST_CHOICES,
    MOST_TOKENS,
    UNSUPPORTED,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    conversation,
)  # fmt: skip

USER = [{"role": "user", "content": "x"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": USER, **fields})


def test_what_is_not_given_is_openai_s_default() -> None:
    params = chat().params(4096)
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (1.0, 1.0, 0, None)
    assert (params.max_tokens, params.stops, params.logprobs) == (DEFAULT_TOKENS, (), None)
    assert chat().params(100).max_tokens == 100
    nulls = dict.fromkeys(("temperature", "top_p", "seed", "stop", "max_tokens", "logprobs", "n", "stream"))
    assert chat(**nulls).params(4096) == params


def test_what_is_given_reaches_the_engine() -> None:
    fields = {
        "temperature": 0, "top_p": 0.5, "top_k": 3, "seed": -7, "stop": ["a", "b"], "max_completion_tokens": 9,
        "max_tokens": 5, "frequency_penalty": -1.5, "presence_penalty": 2, "repetition_penalty": 1.2, "logprobs": True,
        "top_logprobs": 4,
    }  # fmt: skip
    params = chat(**fields).params(4096)
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0, 0.5, 3, -7)
    assert (params.stops, params.max_tokens, params.logprobs) == (("a", "b"), 9, 4)
    assert (params.frequency_penalty, params.presence_penalty, params.repetition_penalty) == (-1.5, 2, 1.2)
    assert chat(stop="a", logprobs=True, top_k=-1, top_p=0).params(None).stops == ("a",)


def test_tokens_are_bounded_by_the_context_or_by_us() -> None:
    with pytest.raises(ApiError, match="513.*512"):
        chat(max_tokens=513).params(512)
    with pytest.raises(ApiError):
        chat(max_tokens=MOST_TOKENS + 1).params(None)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 10**9}, {"n": 0}, {"n": MOST_CHOICES + 1}, {"max_tokens": 0}, {"max_tokens": -1}, {"temperature": -1},
        {"temperature": 1e9}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_p": 1.1},
        {"top_p": -0.1}, {"top_k": 2**63}, {"seed": 2**70}, {"stop": ["x"] * 100_000}, {"stop": ["x" * 10_000]},
        {"stop": [""]}, {"messages": USER * 100_000}, {"frequency_penalty": 3}, {"presence_penalty": -2.1},
        {"repetition_penalty": 0}, {"n": True}, {"n": 1.5}, {"stream": "yes"}, {"seed": "1"}, {"model": "m" * 300},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/x"}}]}]},
        {"messages": [{"role": "system\n", "content": "x"}]}, {"messages": [{"content": "x"}]}, {"messages": "x"},
    ],
    ids=range(29),
)  # fmt: skip
def test_unreasonable_numbers_and_shapes_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**fields)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_would_change_the_answer_is_refused_and_what_says_nothing_is_not(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{name: {"x": 1}}).require_supported()
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    for nothing in (None, [], {}, "none"):
        chat(**{name: nothing}).require_supported()
    chat(other={"x": 1}).require_supported()


def test_conversations() -> None:
    def joined(*turns: tuple[str, str]) -> list[tuple[str, str]]:
        messages = [ChatMessage.model_validate({"role": role, "content": text}) for role, text in turns]
        return [(message.role, message.text) for message in conversation(messages)]

    assert joined(("developer", "s"), ("user", "u")) == [("system", "s"), ("user", "u")]
    assert joined(("system", "a"), ("system", "b"), ("user", "c"), ("user", "d")) == [
        ("system", "a\n\nb"), ("user", "c\n\nd"),
    ]  # fmt: skip
    with pytest.raises(ApiError, match="user"):
        joined(("user", "u"), ("assistant", "a"))
    assert ChatMessage.model_validate({"role": "assistant", "content": None}).text == ""


def test_prompts() -> None:
    def prompts(value: Any) -> list[Any]:
        return CompletionRequest.model_validate({"model": "m", "prompt": value}).prompts()

    assert prompts("a") == ["a"]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2]) == [[1, 2]]
    assert prompts([[1, 2], [3]]) == [[1, 2], [3]]
