"""``/v1/completions``: texts and ids continued, in the older shape."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.conftest import events

PATH = "/v1/completions"


def body(prompt: Any = "今天", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": prompt, "max_tokens": 6, "temperature": 0, **fields}


def test_a_text_is_continued(own_client: Any, served: Any) -> None:
    answer = own_client.post(PATH, json=body()).json()
    (choice,) = answer["choices"]
    assert (answer["object"], choice["finish_reason"], choice["logprobs"]) == ("text_completion", "length", None)
    assert answer["usage"]["prompt_tokens"] == len(served.engine.text_ids("今天"))
    streamed = events(own_client.post(PATH, json=body(stream=True)).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed[:-1]) == choice["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed[:-1]][-1] == "length"


def test_prompts_as_text_and_as_ids(own_client: Any, served: Any) -> None:
    def texts(prompt: Any, **fields: Any) -> list[str]:
        choices = own_client.post(PATH, json=body(prompt, **fields)).json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(len(choices)))
        return [choice["text"] for choice in choices]

    first, second = texts("今天"), texts("你好")
    ids = [list(served.engine.text_ids(text)) for text in ("今天", "你好")]
    assert texts(["今天", "你好"]) == first + second
    assert texts(ids[0]) == first
    assert texts(ids) == first + second
    assert texts(["今天", "你好"], n=2) == first * 2 + second * 2


def test_usage_counts_each_prompt_once(own_client: Any, served: Any) -> None:
    usage = own_client.post(PATH, json=body(["今天", "你好"], n=2)).json()["usage"]
    assert usage["prompt_tokens"] == sum(len(served.engine.text_ids(text)) for text in ("今天", "你好"))
    assert usage["completion_tokens"] == 4 * 6


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_in_front(client: Any, stream: bool) -> None:
    plain = client.post(PATH, json=body()).json()["choices"][0]["text"]
    response = client.post(PATH, json=body(echo=True, stream=stream))
    if stream:
        text = "".join(chunk["choices"][0]["text"] for chunk in events(response.text)[:-1])
    else:
        text = response.json()["choices"][0]["text"]
    assert text == "今天" + plain


def test_logprobs_are_parallel_lists(client: Any) -> None:
    found = client.post(PATH, json=body(logprobs=2)).json()["choices"][0]["logprobs"]
    assert {len(values) for values in found.values()} == {6}
    assert set(found) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert found["text_offset"] == [sum(map(len, found["tokens"][:n])) for n in range(6)]
    chunks = events(client.post(PATH, json=body(logprobs=2, stream=True)).text)[:-1]
    scored = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [value for each in scored for value in each["text_offset"]] == found["text_offset"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [999_999]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"prompt": ["x"] * 16, "n": 8}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 99}, "logprobs"),
    ],
)
def test_wrong_requests(client: Any, fields: dict[str, Any], param: str) -> None:
    response = client.post(PATH, json=body(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
