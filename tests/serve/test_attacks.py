"""The attack list, T59 to T74 of the notes on reliability: each is answered by its 4xx, and the server lives.

Here they come through a real socket, as an attacker would send them; what each part does by itself is tested with it.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve.conftest import KEY, Live, ask, events, until

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def send(
    live: Live, body: Any = None, *, path: str = CHAT, method: str = "POST", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and JSON; ``body`` as it is where it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, data, JSON if headers is None else headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def _lives_on(live: Live) -> Iterator[None]:
    """After each attack everybody else is answered, and nothing of it is left."""
    yield
    status, answer = send(live, ask())
    assert (status, answer["usage"]["completion_tokens"]) == (200, 8)
    until(lambda: not live.app.state.places.taken)
    stats = live.served.scheduler.stats()
    assert (stats.running, stats.queued) == (0, 0)


def test_t59_unreasonable_numbers(live: Live) -> None:
    wrong = [
        ("n", 10**9), ("best_of", 10**9), ("max_tokens", -1), ("max_tokens", 0), ("max_tokens", 10**9),
        ("temperature", -1), ("temperature", 1e9), ("top_k", 2**63), ("seed", 2**70), ("stop", ["x"] * 100_000),
        ("stop", "x" * 1_000_000), ("logit_bias", {str(n): 1 for n in range(50_000)}), ("messages", [{}] * 100_000),
        ("top_logprobs", 10**6), ("frequency_penalty", -1e308), ("max_completion_tokens", 10**6),
    ]  # fmt: skip
    before = live.served.scheduler.stats().submitted
    for name, value in wrong:
        path = "/v1/completions" if name == "best_of" else CHAT
        fields = {"model": "tiny", "prompt": "x"} if name == "best_of" else ask()
        status, answer = send(live, {**fields, name: value}, path=path)
        assert status == 400, name
        assert answer["error"]["param"], name
        assert len(json.dumps(answer)) < 2000, name
    for name in ("temperature", "top_p", "frequency_penalty"):
        for value in ("NaN", "Infinity", "-Infinity", "1e999"):
            body = json.dumps(ask())[:-1] + f', "{name}": {value}}}'
            assert send(live, body.encode())[0] == 400
    assert live.served.scheduler.stats().submitted == before


def test_t60_bodies(live: Live) -> None:
    assert send(live, b"x" * 100_000_000)[0] == 413
    assert send(live, b"[" * 100_000)[0] == 400
    assert send(live, gzip.compress(b" " * 10_000_000), headers=JSON | {"Content-Encoding": "gzip"})[0] == 415
    assert send(live, ask(), headers={"Content-Type": "text/xml"})[0] == 415
    for body in (b"\xff\xfe", b"[]", b'"x"', b"null", b"1"):
        assert send(live, body)[0] == 400
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(40):  # would go on for ever
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_t61_headers(live: Live) -> None:
    for head in (b"X: " + b"a" * 1_000_000, b"".join(b"X%d: a\r\n" % n for n in range(10_000))):
        with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
            assert connection.recv(4096).split()[1] in (b"400", b"431")


def test_t62_keys(own: Callable[..., Live]) -> None:
    live = own(keys=[KEY])
    for headers in (
        {}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"},
        {"Authorization": KEY}, {"x-api-key": KEY}, {"Authorization": f"Bearer {KEY} x"},
    ):  # fmt: skip
        assert send(live, ask(), headers=JSON | headers)[0] == 401
    for path in (f"{CHAT}?api_key={KEY}", f"{CHAT}?key={KEY}", "//v1/models", "/v1/../v1/models", "/V1/models"):
        assert send(live, ask(), path=path)[0] == 401
    assert send(live, path="/v1/%2e%2e/health", method="GET")[0] == 401
    keys = f"Authorization: Bearer {KEY}\r\nAuthorization: Bearer x\r\n"
    twice = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{keys}\r\n"
    smuggled = "GET /v1/models HTTP/1.1\r\nHost: localhost/health?\r\n\r\n"
    for text, status in ((twice, b"401"), (smuggled, b"400")):
        with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
            connection.sendall(text.encode())
            assert connection.recv(4096).split()[1] == status
    assert send(live, ask(), headers=JSON | {"Authorization": f"Bearer {KEY}"})[0] == 200


def test_t63_names_of_other_sites(live: Live) -> None:
    assert send(live, ask(), headers=JSON | {"Host": "evil.com"})[0] == 403
    assert send(live, ask(), headers=JSON | {"Origin": "https://evil.com"})[0] == 403


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://169.254.169.254/", "http://a\\@b", "http://2130706433/", "http://[::ffff:7f00:1]/"]
)  # fmt: skip
def test_t64_pictures_are_never_fetched(live: Live, url: str) -> None:
    for part in ({"type": "image_url", "image_url": {"url": url}}, {"type": "input_audio"}, {"type": "file"}):
        status, answer = send(live, ask(messages=[{"role": "user", "content": [part]}]))
        assert (status, answer["error"]["param"]) == (400, "messages[0].content[0].type")


def test_t65_fields_that_would_run_something(live: Live) -> None:
    for fields in (
        {"prompt_embeds": "AAAA"}, {"chat_template": "{{ ''.__class__ }}"}, {"documents": [{"text": "x"}]},
        {"tools": [{"type": "function", "function": {"parameters": {"pattern": "(a+)+$"}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
        {"response_format": "json"}, {"guided_regex": "(a+)+$"},
    ):  # fmt: skip
        assert send(live, ask(**fields))[0] == 400
    assert send(live, ask(anything={"__class__": "x"}, trust_remote_code=True, lora_path="/etc"))[0] == 200


@pytest.mark.parametrize(
    "name", ["../../x", "org/evil", "/etc", "default", "tiny/../pupil", "", "None", "a\x00b", "{{7*7}}"]
)
def test_t66_models_that_are_paths(live: Live, name: str) -> None:
    status, answer = send(live, ask(model=name))
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_t67_prompts_beyond_the_context(live: Live) -> None:
    """Health is answered while a long prompt becomes tokens."""
    answers: list[tuple[int, Any]] = []
    body = json.dumps(ask("好" * 600_000), ensure_ascii=False).encode()
    thread = threading.Thread(target=lambda: answers.append(send(live, body)))
    thread.start()
    health = 0
    while thread.is_alive():
        assert send(live, path="/health", method="GET")[0] == 200
        health += 1
    assert health
    assert (answers[0][0], answers[0][1]["error"]["code"]) == (400, "context_length_exceeded")
    assert "512" in answers[0][1]["error"]["message"]


def test_t68_half_open_connections(live: Live) -> None:
    silent = [socket.create_connection(("127.0.0.1", live.port), timeout=30) for _ in range(300)]
    for connection in silent[::2]:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localh")
    assert send(live, ask())[0] == 200
    for connection in silent:
        connection.close()


@pytest.mark.usefixtures("slow")
def test_t69_t70_clients_that_vanish(own: Callable[..., Live]) -> None:
    """At different moments, in both forms: all places are free again, and one more is answered."""
    live = own(max_batch=16, max_queue=64)
    for number in range(40):
        payload = json.dumps(ask(max_tokens=400, stream=bool(number % 2))).encode()
        connection = socket.create_connection(("127.0.0.1", live.port), timeout=30)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        time.sleep(0.002 * (number % 7))
        connection.close()
    stats = live.served.scheduler.stats
    until(lambda: stats().running == stats().queued == 0 and not live.app.state.places.taken)
    assert set(stats().finished) <= {"cancelled"}
    assert send(live, ask())[0] == 200


def test_t71_a_model_that_fails_in_the_middle(own: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    from hantune.infer.decode import CachedDecoder

    live = own()
    with monkeypatch.context() as broken:
        broken.setattr(CachedDecoder, "step", lambda self: 1 / 0)
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
        connection.request("POST", CHAT, json.dumps(ask(stream=True)), JSON)
        found = events(connection.getresponse().read().decode())
    assert found[-1] == "[DONE]"
    assert found[-2]["error"]["type"] == "server_error"
    assert send(live, ask())[0] == 200


@pytest.mark.usefixtures("slow")
def test_t72_a_stop_with_ten_in_progress(own: Callable[..., Live]) -> None:
    live = own(max_batch=10)
    answers: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(send(live, ask(max_tokens=40)))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    until(lambda: live.served.scheduler.stats().submitted == 10)
    live.stop()
    for thread in threads:
        thread.join(30)
    assert [status for status, _ in answers] == [200] * 10


def test_t73_nothing_of_a_request_reaches_the_log_as_it_is(own: Callable[..., Live]) -> None:
    lines: list[str] = []
    live = own(log=lines.append)
    evil = "a\r\n\x1b[31mFAKE"
    headers = JSON | {"X-Request-Id": "a;b", "Authorization": f"Bearer {KEY}"}
    send(live, ask(evil, model=evil, user=evil), headers=headers)
    send(live, ask(evil), path="/a%0d%0a%1b[31mFAKE")
    until(lambda: len(lines) == 2)
    for line in lines:
        assert line.isprintable()
        assert json.loads(line)
        assert KEY not in line
    assert "FAKE" not in lines[0]


def test_t74_the_same_question_alone_and_in_a_crowd(live: Live) -> None:
    def tell(fields: dict[str, Any], into: list[str]) -> None:
        into.append(send(live, ask(max_tokens=20, **fields))[1]["choices"][0]["message"]["content"])

    for fields in ({}, {"temperature": 1.3, "seed": 11}):
        alone: list[str] = []
        crowd: list[str] = []
        tell(fields, alone)
        threads = [threading.Thread(target=tell, args=(fields, crowd)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert crowd == alone * 8
