"""What cuts an answer: time, a client that is gone, a server that stops, a model that fails."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from hantune.infer.scheduler import Done
from hantune.serve.attempt import Attempt
from tests.serve.conftest import CHAT, Live, ask, events, is_idle, send, until

LONG = {"max_tokens": 400}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("moment", ["at once", "while it runs"])
def test_a_client_that_is_gone_frees_its_place(own: Callable[..., Live], stream: bool, moment: str) -> None:
    live = own()
    connection = send(live, ask(stream=stream, **LONG))
    if moment == "while it runs":
        until(lambda: live.served.scheduler.stats().running)
    connection.close()
    until(lambda: live.served.scheduler.stats().finished == {"cancelled": 1} and is_idle(live))
    assert live.served.scheduler.stats().completion_tokens < 300


@pytest.mark.usefixtures("slow")
def test_all_choices_of_a_client_that_is_gone_end(own: Callable[..., Live]) -> None:
    live = own()
    connection = send(live, ask(n=4, stream=True, **LONG))
    until(lambda: live.served.scheduler.stats().running == 4)
    connection.close()
    until(lambda: live.served.scheduler.stats().finished == {"cancelled": 4})


@pytest.mark.usefixtures("slow")
def test_an_answer_that_takes_too_long_is_told(open_client: Callable[..., Any], served: Any) -> None:
    client = open_client(seconds=0.2)
    response = client.post(CHAT, json=ask(**LONG))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
    assert response.headers["x-should-retry"] == "false"
    *_, error, done = events(client.post(CHAT, json=ask(stream=True, **LONG)).text)
    assert (error["error"]["code"], done) == ("timeout", "[DONE]")
    until(lambda: served.scheduler.stats().finished == {"cancelled": 2})


def test_a_model_that_fails_is_told_and_the_server_lives(own_client: Any, breaks: Callable[[], None]) -> None:
    breaks()
    *chunks, error, done = events(own_client.post(CHAT, json=ask(stream=True)).text)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (error["error"]["code"], error["error"]["type"], done) == ("generation_failed", "server_error", "[DONE]")
    breaks()
    assert own_client.post(CHAT, json=ask()).status_code == 500
    assert own_client.post(CHAT, json=ask()).status_code == 200


def test_why_an_answer_is_none(served: Any) -> None:
    async def forever() -> Any:
        await asyncio.sleep(3600)

    attempt = Attempt(served.scheduler, [], forever, 5)
    assert attempt.failure(Done(finish_reason="stop", prompt_tokens=1)) is None
    cut = Done(finish_reason="cancelled", prompt_tokens=1)
    codes = []
    for why in (None, "timeout", "gone"):
        attempt.why = why  # type: ignore[assignment]
        failure = attempt.failure(cut)
        assert failure is not None
        assert failure.status == 503
        codes.append(failure.code)
    assert codes == ["server_closing", "timeout", "client_gone"]


@pytest.mark.usefixtures("slow")
def test_a_reader_that_reads_nothing_holds_nobody(own: Callable[..., Live]) -> None:
    live = own()
    silent = [send(live, ask(stream=True, logprobs=True, top_logprobs=20, max_tokens=100)) for _ in range(4)]
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.request("POST", CHAT, json.dumps(ask()), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    until(lambda: live.served.scheduler.stats().finished.get("length", 0) == 5)
    for each in silent:
        each.close()
    until(lambda: is_idle(live))
