"""The process: its orderly end."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hantune.serve.address import listen
from hantune.serve.app import Settings, build
from hantune.serve.server import run
from tests.serve.conftest import Live, ask, events, until

CHAT = "/v1/chat/completions"


def post(live: Live, body: dict[str, Any]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read().decode()


def in_thread(live: Live, body: dict[str, Any], into: list[tuple[int, str]]) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.append(post(live, body)))
    thread.start()
    return thread


@pytest.mark.usefixtures("slow")
def test_what_runs_may_end_while_new_requests_are_refused(own: Callable[..., Live]) -> None:
    live = own()
    answers: list[tuple[int, str]] = []
    threads = [in_thread(live, ask(max_tokens=60, stream=bool(n % 2)), answers) for n in range(10)]
    until(lambda: live.served.scheduler.stats().submitted == 10)
    live.server.handle_exit(15, None)
    until(lambda: live.served.is_closing)
    assert post(live, ask())[0] == 503
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in answers] == [200] * 10
    assert all("server_closing" not in text for _, text in answers)
    live.thread.join(30)
    assert not live.thread.is_alive()


@pytest.mark.usefixtures("slow")
def test_what_takes_longer_than_the_patience_ends_with_a_reason(own: Callable[..., Live]) -> None:
    live = own(drain=0.1)
    whole: list[tuple[int, str]] = []
    streamed: list[tuple[int, str]] = []
    threads = [in_thread(live, ask(max_tokens=400), whole), in_thread(live, ask(max_tokens=400, stream=True), streamed)]
    until(lambda: live.served.scheduler.stats().running == 2)
    live.stop()
    for thread in threads:
        thread.join(30)
    assert whole[0][0] == 503
    *_, error, done = events(streamed[0][1])
    assert (error["error"]["code"], done) == ("server_closing", "[DONE]")


@pytest.mark.usefixtures("slow")
def test_a_second_signal_does_not_wait(own: Callable[..., Live]) -> None:
    live = own(drain=600.0)
    answers: list[tuple[int, str]] = []
    thread = in_thread(live, ask(max_tokens=500), answers)
    until(lambda: live.served.scheduler.stats().running)
    live.server.handle_exit(15, None)
    until(lambda: live.served.is_closing)
    live.server.handle_exit(15, None)
    live.thread.join(30)
    thread.join(30)
    assert answers[0][0] == 503
    assert live.server.signal == 15


def test_a_scheduler_that_died_ends_the_server(served: Any) -> None:
    """Not a server that answers 503 for ever: whoever started it can start it anew."""
    served.scheduler.close()
    listening = listen("127.0.0.1", 0)
    assert run(build(served, Settings()), served, listening, drain_seconds=0, announce=list) is None
