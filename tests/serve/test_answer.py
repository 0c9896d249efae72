"""Server-sent events: every byte is whole, and silence is filled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import ask, events

CHAT = "/v1/chat/completions"


@pytest.mark.usefixtures("slow")
def test_a_silent_stream_shows_that_it_lives(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hantune.serve.answer.PING_SECONDS", 0.01)
    text = client.post(CHAT, json=ask(stream=True)).text
    assert ": ping\n\n" in text
    assert events(text)[-1] == "[DONE]"


def test_every_event_is_whole_utf8_and_one_json(client: Any) -> None:
    """Random tokens of a byte-fallback tokenizer: torn characters everywhere, none of them across two events."""
    for seed in range(5):
        body = ask(stream=True, temperature=2.0, seed=seed, max_tokens=60)
        raw = client.post(CHAT, json=body).content
        pieces = []
        for frame in raw.split(b"\n\n")[:-2]:
            choice = json.loads(frame.removeprefix(b"data: ").decode("utf-8"))["choices"][0]
            pieces.append(choice["delta"].get("content", ""))
        whole = client.post(CHAT, json=body | {"stream": False}).json()["choices"][0]["message"]["content"]
        assert "".join(pieces) == whole


def test_the_log_knows_what_was_used_and_not_what_was_said(open_client: Callable[..., Any]) -> None:
    lines: list[str] = []
    client = open_client(log=lines.append)
    client.post(CHAT, json=ask("秘密的话", stream=True))
    client.post(CHAT, json=ask("秘密的话"))
    for line in lines:
        record = json.loads(line)
        assert (record["model"], record["completion_tokens"], record["finish"]) == ("tiny", 8, "length")
        assert record["prompt_tokens"] > 5
        assert "秘密" not in json.dumps(record, ensure_ascii=False)
