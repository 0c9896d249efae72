"""Connections: what is not HTTP, what takes its time, and too many of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from hantune.serve.protocol import Protocol
from tests.serve.conftest import Live, ask, until


def connect(live: Live, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=20)
    connection.sendall(data)
    return connection


def answer(live: Live, data: bytes) -> tuple[int, Any]:
    """Status and JSON of what comes back until the server closes or the body is whole."""
    with connect(live, data) as connection:
        got = b""
        while chunk := connection.recv(65536):
            got += chunk
            head, _, body = got.partition(b"\r\n\r\n")
            if body and b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n":
                break
    return int(got.split()[1]), json.loads(got.partition(b"\r\n\r\n")[2])


def is_closed(connection: socket.socket) -> bool:
    """Waits for it."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",  # no Host
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\nX\r\n\r\n",
        START + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        START + b"Content-Length: -1\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=range(10),
)
def test_what_is_not_http_is_refused_in_the_shape_of_all_errors(live: Live, data: bytes) -> None:
    status, body = answer(live, data)
    assert status == 400
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_headers_without_end(live: Live) -> None:
    status, body = answer(live, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000)
    assert (status, body["error"]["type"]) == (431, "invalid_request_error")


@pytest.mark.parametrize("data", [b"", b"GET /hea", START, START[:-2] + b"\r\nContent-Length: 5\r\n\r\n{"])
def test_who_sends_nothing_more_is_dropped(live: Live, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(Protocol, "request_seconds", 0.2)
    monkeypatch.setattr("hantune.serve.door.BODY_SECONDS", 0.2)
    with connect(live, data) as connection:
        got = connection.recv(4096) if data.endswith(b"{") else b""
        assert not got or b" 408 " in got.split(b"\r\n")[0]
        assert is_closed(connection)


def test_a_slow_start_after_an_answer_is_dropped_too(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "request_seconds", 0.2)
    with connect(live, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        assert is_closed(connection)


@pytest.mark.usefixtures("slow")
def test_answers_may_take_longer_than_headers(own: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "request_seconds", 0.2)
    live = own()
    body = json.dumps(ask(max_tokens=80)).encode()
    status, found = answer(live, START + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert (status, found["usage"]["completion_tokens"]) == (200, 80)


def test_idle_connections_make_room_for_new_ones(own: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "most_connections", 5)
    live = own()
    idle = [connect(live) for _ in range(5)]
    until(lambda: len(live.server.server_state.connections) == 5)
    for _ in range(3):
        assert answer(live, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[0] == 200
    assert len(live.server.server_state.connections) <= 5
    for connection in idle:
        connection.close()


@pytest.mark.usefixtures("slow")
def test_where_every_connection_is_busy_a_new_one_is_refused(
    own: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "most_connections", 2)
    live = own()
    body = json.dumps(ask(max_tokens=400)).encode()
    busy = [connect(live, START + b"Content-Length: %d\r\n\r\n" % len(body) + body) for _ in range(2)]
    until(lambda: live.served.scheduler.stats().running == 2)
    status, found = answer(live, b"")
    assert (status, found["error"]["code"]) == (503, "too_many_connections")
    for connection in busy:
        connection.close()


@pytest.mark.usefixtures("slow")
def test_a_reader_that_stopped_is_dropped(own: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers are full, nothing more can be written: after a while the answer is cut."""
    monkeypatch.setattr(Protocol, "write_seconds", 0.1)
    live = own()
    fields = {"max_tokens": 300, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 8}
    body = json.dumps(ask(**fields)).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", live.port))
    connection.sendall(START + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: live.served.scheduler.stats().submitted == 8)
    until(lambda: not live.server.server_state.connections)
    until(lambda: sum(live.served.scheduler.stats().finished.values()) == 8)
    connection.close()
