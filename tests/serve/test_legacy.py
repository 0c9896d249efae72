"""``/stream``: a client of the older kits, as its protocol says it polls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from hantune.infer.scheduler import Done, Stream, Token
from hantune.serve.errors import ApiError
from hantune.serve.legacy import MOST_SESSIONS, Session, Sessions, StreamRequest
from tests.serve.conftest import until


def poll(client: Any, prompt: str, history: Any = (), **fields: Any) -> dict[str, Any]:
    response = client.post("/stream", json={"prompt": prompt, "history": list(history), **fields})
    answer: dict[str, Any] = response.json()
    assert answer["status"] == response.status_code
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", answer["time"])
    return answer


def finished(client: Any, prompt: str, history: Any = (), **fields: Any) -> dict[str, Any]:
    """Poll until the mark; every text begins with the one before."""
    texts = [poll(client, prompt, history, **fields)["response"]]
    assert texts == [""]
    answer: dict[str, Any] = {}

    def is_complete() -> bool:
        nonlocal answer
        answer = poll(client, prompt, history, **fields)
        assert answer["response"].startswith(texts[-1])
        texts.append(answer["response"].removesuffix("[stop]"))
        return bool(answer["response"].endswith("[stop]"))

    until(is_complete)
    return answer


@pytest.mark.usefixtures("slow")
def test_an_answer_grows_and_ends_with_the_mark(own_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hantune.serve.legacy.DEFAULT_TOKENS", 12)
    first = finished(own_client, "你好")
    text = first["response"].removesuffix("[stop]")
    assert first["history"] == [["你好", text]]
    assert poll(own_client, "你好")["response"] == first["response"]  # a reply that got lost can be asked for again
    second = finished(own_client, "再说", first["history"])
    assert second["history"][:1] == first["history"]
    assert len(second["history"]) == 2


def test_history_is_used_and_no_answer_is_shared(own_client: Any, served: Any) -> None:
    """What the model was asked: the turns of the history, then the prompt; one answer for each client."""
    alone = finished(own_client, "你好")
    after = finished(own_client, "你好", [["你叫什么", "小汉"]])
    assert alone["response"] != after["response"]
    assert after["history"][0] == ["你叫什么", "小汉"]
    asked = served.scheduler.stats().submitted
    for session in ("甲", "乙"):
        assert poll(own_client, "一个问题", session=session)["response"] == ""
    assert served.scheduler.stats().submitted == asked + 2
    poll(own_client, "一个问题", session="甲")
    assert served.scheduler.stats().submitted == asked + 2  # polled for, not asked again


def test_clients_with_other_keys_do_not_share(open_client: Callable[..., Any], served: Any) -> None:
    keys = ["sk-one-0123456789abc", "sk-two-0123456789abc"]
    client = open_client(keys=keys)
    for number, key in enumerate(keys):
        answer = client.post("/stream", json={"prompt": "你好"}, headers={"authorization": f"Bearer {key}"})
        assert answer.json()["response"] == ""
        assert served.scheduler.stats().submitted == number + 1


def session(*texts: str, reason: Any = None, error: Any = None) -> dict[str, Any]:
    """The answer to a poll when these texts have come."""
    stream = Stream(0, 3)
    for text in texts:
        stream.put(Token(text=text))
    if reason:
        stream.put(Done(finish_reason=reason, prompt_tokens=3, error=error))
    return Session(stream, StreamRequest(prompt="问", history=[["a", "b"]])).answer()


def test_a_model_that_writes_the_mark_does_not_end_early() -> None:
    """In ``response`` the mark means the end and nothing else; history has the words as they were."""
    assert session("说 [st")["response"] == "说 "  # may still become the mark
    assert session("说 [st", "op] 了")["response"] == "说 ［stop］ 了"
    end = session("说 [st", "op] 了", reason="stop")
    assert end["response"] == "说 ［stop］ 了[stop]"
    assert end["response"].count("[stop]") == 1
    assert end["history"] == [["a", "b"], ["问", "说 [stop] 了"]]
    assert session("[st", reason="length")["response"] == "[st[stop]"


def test_errors_stand_in_the_status_and_end_the_polling() -> None:
    from hantune.errors import MachineError

    failed = session("一半", reason="error", error=MachineError("infer.step-failed", "生成时出错"))
    assert (failed["status"], failed["response"], failed["history"]) == (500, "一半[stop]", [["a", "b"]])
    assert "生成时出错" in failed["error"]
    assert session("一半", reason="cancelled")["status"] == 503


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"prompt": 3}, 400),
        ({"prompt": "x", "history": [["only one"]]}, 400),
        ({"prompt": "x", "model": "nobody"}, 404),
        ({"prompt": "好" * 600}, 400),
        ({}, 400),
    ],
)
def test_wrong_requests_keep_the_shape(client: Any, fields: dict[str, Any], status: int) -> None:
    response = client.post("/stream", json=fields)
    assert response.status_code == status
    answer = response.json()
    assert (answer["status"], answer["response"], answer["history"]) == (status, "[stop]", [])
    assert answer["error"]


@pytest.mark.usefixtures("slow")
def test_answers_nobody_polls_for_are_stopped_and_forgotten(served: Any) -> None:
    async def leave() -> None:
        sessions = Sessions(served, seconds=0.1)
        await sessions.poll(("me",), StreamRequest(prompt="你好"))
        assert len(sessions) == 1
        while len(sessions):
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(leave(), 30))
    until(lambda: served.scheduler.stats().finished == {"cancelled": 1})


@pytest.mark.usefixtures("slow")
def test_the_number_of_answers_is_bounded(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hantune.serve.legacy.DEFAULT_TOKENS", 12)
    assert MOST_SESSIONS < 1000

    async def ask_for_three() -> None:
        sessions = Sessions(served, most=2)
        for prompt in ("一", "二"):
            await sessions.poll(("me",), StreamRequest(prompt=prompt))
        with pytest.raises(ApiError) as caught:
            await sessions.poll(("me",), StreamRequest(prompt="三"))
        assert (caught.value.status, len(sessions)) == (429, 2)
        assert "retry-after" in caught.value.headers
        until(lambda: served.scheduler.stats().running == 0)
        await sessions.poll(("me",), StreamRequest(prompt="三"))  # in the place of one that is complete
        assert len(sessions) == 2

    asyncio.run(ask_for_three())
