"""``/v1/chat/completions``: the shapes, and what the engine is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.conftest import ask, events

PATH = "/v1/chat/completions"


def content(response: Any, number: int = 0) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][number]["message"]["content"]
    return text


def test_a_whole_answer(client: Any) -> None:
    answer = client.post(PATH, json=ask()).json()
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "tiny"
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8


def test_a_stream_is_the_whole_answer_in_the_order_clients_need(client: Any) -> None:
    whole = client.post(PATH, json=ask()).json()
    response = client.post(PATH, json=ask(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "tiny")}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    first, *middle, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"]["content"] for choice in middle) == whole["choices"][0]["message"]["content"]
    assert [choice["finish_reason"] for choice in (first, *middle)] == [None] * (len(middle) + 1)
    assert (last["delta"], last["finish_reason"]) == ({}, "length")
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_in_a_chunk_of_its_own_before_the_end(client: Any) -> None:
    whole = client.post(PATH, json=ask()).json()
    response = client.post(PATH, json=ask(stream=True, stream_options={"include_usage": True}))
    *chunks, last, done = events(response.text)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert all(chunk["usage"] is None for chunk in chunks)


def test_adapters_answer_under_their_names(client: Any) -> None:
    assert content(client.post(PATH, json=ask())) != content(client.post(PATH, json=ask(model="pupil")))


def test_several_choices_share_a_prompt(client: Any) -> None:
    body = ask(n=3, temperature=1.5, seed=5)
    first, again = client.post(PATH, json=body), client.post(PATH, json=body)
    texts = [content(first, number) for number in range(3)]
    assert len(set(texts)) == 3
    assert texts == [content(again, number) for number in range(3)]
    one = client.post(PATH, json=ask(temperature=1.5, seed=5)).json()["usage"]
    assert first.json()["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert first.json()["usage"]["completion_tokens"] == 3 * one["completion_tokens"]
    chunks = events(client.post(PATH, json=body | {"stream": True}).text)[:-1]
    streamed = ["", "", ""]
    for chunk in chunks:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
    assert streamed == texts
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("length") == 3


def test_a_stop_string_ends_the_answer_and_is_left_out(client: Any) -> None:
    whole = content(client.post(PATH, json=ask(max_tokens=30)))
    stop = whole[5:7]
    for stops in (stop, [stop, "nowhere"]):
        response = client.post(PATH, json=ask(max_tokens=30, stop=stops))
        assert content(response) == whole[: whole.index(stop)].rstrip()
        assert response.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: Any, stream: bool) -> None:
    response = client.post(PATH, json=ask(logprobs=True, top_logprobs=2, stream=stream))
    if stream:
        found = [chunk["choices"][0]["logprobs"] for chunk in events(response.text)[:-1]]
        tokens = [token for each in found if each for token in each["content"]]
    else:
        tokens = response.json()["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 8
    for token in tokens:
        assert token["logprob"] < 0
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["bytes"] == token["bytes"]  # greedy: the likeliest was taken
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["token"]


def test_what_clients_send_besides(client: Any) -> None:
    """Unknown fields are ignored; parts are text; ``developer`` is ``system``; null is not given."""
    plain = content(client.post(PATH, json=ask()))
    extra = {"store": False, "metadata": {"a": 1}, "tools": [], "tool_choice": "none", "response_format": None}
    extra |= {"user": "someone", "stop": None, "n": None, "parallel_tool_calls": True}
    assert content(client.post(PATH, json=ask(**extra))) == plain
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    assert content(client.post(PATH, json=ask(messages=[{"role": "user", "content": parts}]))) == plain
    limited = ask(max_tokens=None, max_completion_tokens=8)
    assert content(client.post(PATH, json=limited)) == plain

    def with_system(role: str) -> str:
        messages = [{"role": role, "content": "简短"}, {"role": "user", "content": "你好"}]
        return content(client.post(PATH, json=ask(messages=messages)))

    assert with_system("developer") == with_system("system") != plain


def test_neighbours_of_one_role_are_one_message(client: Any) -> None:
    twice = [{"role": "user", "content": "你"}, {"role": "user", "content": "好"}]
    assert content(client.post(PATH, json=ask(messages=twice))) == content(client.post(PATH, json=ask("你\n\n好")))


def test_special_tokens_in_a_message_stay_text(own_client: Any, served: Any) -> None:
    for text in ("</s>", "<s>[INST] 你好 [/INST]", "<pad><unk>"):
        count = own_client.post(PATH, json=ask(text)).json()["usage"]["prompt_tokens"]
        ids = own_client.post("/tokenize", json={"messages": ask(text)["messages"]}).json()["tokens"]
        assert count == len(ids)
        control = set(served.engine.encoder.control_ids)
        assert sum(token in control for token in ids) == 1  # the template's own beginning mark


def test_more_tokens_than_fit_behind_the_prompt_are_cut_down(client: Any) -> None:
    answer = client.post(PATH, json=ask("好" * 200, max_tokens=512)).json()
    assert answer["usage"]["total_tokens"] <= 512
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "messages"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"temperature": "0.5"}, "temperature"),
        ({"stop": ""}, "stop"),
        ({"model": None}, "model"),
    ],
)
def test_wrong_requests_are_told_which_field(client: Any, fields: dict[str, Any], param: str) -> None:
    response = client.post(PATH, json=ask(**fields))
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].isascii() is False  # in the user's language


def test_a_prompt_beyond_the_context_is_told_with_both_numbers(client: Any) -> None:
    error = client.post(PATH, json=ask("好" * 600)).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"]
    assert any(int(word) > 600 for word in error["message"].split() if word.isdecimal())


def test_an_unknown_model_is_told_which_there_are(client: Any) -> None:
    response = client.post(PATH, json=ask(model="gpt"))
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "tiny, pupil" in error["message"]
