"""OpenAI's batch files: each line gets its line, in order, with the server's own answers and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Message
from hantune.infer.batch import answer_file
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams
from hantune.serve.lines import OpenAILines
from hantune.serve.openai import ChatCompletion

PARAMS = SamplingParams(max_tokens=4, seed=0)
HELLO = [{"role": "user", "content": "你好"}]


@pytest.fixture
def llama(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Engine:
    return Engine(tiny_llama(sp_tokenizer), Encoder(sp_tokenizer), get_template("llama2"))


def answered(engine: Engine, folder: Path, *lines: Any) -> list[dict[str, Any]]:
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    source.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    counts = answer_file(lambda: engine, source, output, PARAMS, batch_size=3, form=OpenAILines())
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len(found) == len(lines) == counts["answers"] + counts["errors"]
    assert len({line["id"] for line in found}) == len(found)
    return found


def line(name: str, **body: Any) -> dict[str, Any]:
    body = {"model": "any", "messages": HELLO, **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def test_answers_are_chat_completions(llama: Engine, tmp_path: Path) -> None:
    drawn = {"temperature": 1.0, "seed": 7, "max_tokens": 5}
    plain, twice, scored = answered(
        llama,
        tmp_path,
        line("a"),
        line("b", n=2, **drawn),
        line("c", logprobs=True, top_logprobs=2, max_completion_tokens=3),
    )
    asked = [Message(role="user", text="你好")]
    assert [each["custom_id"] for each in (plain, twice, scored)] == ["a", "b", "c"]
    for each in (plain, twice, scored):
        assert (each["response"]["status_code"], each["error"]) == (200, None)
    bodies = [each["response"]["body"] for each in (plain, twice, scored)]
    text = llama.answer(asked, PARAMS)
    assert bodies[0]["choices"][0]["message"]["content"] == text.text
    assert bodies[0]["usage"] == text.usage
    for choice, seed in zip(bodies[1]["choices"], (7, 8), strict=True):
        alone = llama.answer(asked, SamplingParams(max_tokens=5, temperature=1.0, seed=seed))
        assert (choice["message"]["content"], choice["finish_reason"]) == (alone.text, alone.finish_reason)
    assert bodies[1]["usage"]["completion_tokens"] == 10
    scores = bodies[2]["choices"][0]["logprobs"]["content"]
    assert [len(score["top_logprobs"]) for score in scores] == [2, 2, 2]
    for body in bodies:
        body["usage"]["prompt_tokens_details"] = {}
        ChatCompletion.model_validate(body)


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (line("x", temperature="hot"), 400, "invalid_value"),
        (line("x", tools=[{}]), 400, "unsupported_parameter"),
        (line("x", stream=True), 400, "invalid_value"),
        (line("x", messages=[{"role": "assistant", "content": "好"}]), 400, "invalid_value"),
        (line("x", messages=[{"role": "user", "content": "龘" * 600}]), 400, "context_length_exceeded"),
        (line("x", max_tokens=10**6), 400, "invalid_value"),
        (line("x") | {"url": "/v1/embeddings"}, 400, "invalid_url"),
        (line("x") | {"body": "你好"}, 400, "invalid_value"),
        (line("a"), None, "duplicate_custom_id"),
        (line("x") | {"custom_id": 3}, None, "missing_required_parameter"),
        ({"prompt": "你好"}, None, "missing_required_parameter"),
        ("{broken", None, "source.broken-json"),
    ],
)
def test_a_bad_line_gets_an_error_line(llama: Engine, tmp_path: Path, bad: Any, status: int, code: str) -> None:
    first, found, last = answered(llama, tmp_path, line("a"), bad, line("z"))
    assert first["response"]["status_code"] == last["response"]["status_code"] == 200
    if status is None:
        assert (found["response"], found["error"]["code"]) == (None, code)
    else:
        assert found["error"] is None
        assert found["response"]["status_code"] == status
        assert found["response"]["body"]["error"]["code"] == code
    if isinstance(bad, dict):
        assert found["custom_id"] == bad.get("custom_id")


def test_what_a_line_leaves_open_is_as_the_command_says(llama: Engine, tmp_path: Path) -> None:
    found = answered(llama, tmp_path, line("a", max_tokens=2), line("b"))
    assert [each["response"]["body"]["usage"]["completion_tokens"] for each in found] == [2, 4]
