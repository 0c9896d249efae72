"""The door: host, origin, key, place, body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import KEY, ask

CHAT = "/v1/chat/completions"


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("127.9.9.9", 200),
        ("evil.com", 403), ("localhost.evil.com", 403), ("10.0.0.1", 403), ("localhost/v1/models?", 400),
        ("a b", 400), ("", 400), ("localhost:99999999", 400),
    ],
)  # fmt: skip
def test_a_server_of_this_machine_is_called_by_names_of_this_machine(client: Any, host: str, status: int) -> None:
    assert client.get("/health", headers={"host": host}).status_code == status


def test_one_for_others_may_have_any_name(open_client: Callable[..., Any]) -> None:
    client = open_client(host="0.0.0.0", keys=[KEY])
    assert client.get("/health", headers={"host": "chat.example.com"}).status_code == 200
    assert client.get("/health", headers={"host": "chat.example.com/x"}).status_code == 400


def test_pages_of_other_sites_cannot_use_a_server_without_a_key(open_client: Callable[..., Any]) -> None:
    client = open_client()
    assert client.post(CHAT, json=ask(), headers={"origin": "http://localhost:8000"}).status_code == 200
    for origin in ("https://evil.com", "null", "http://localhost:9000"):
        assert code(client.post(CHAT, json=ask(), headers={"origin": origin})) == (403, "origin_not_allowed")
    # A form of another site needs no preflight, but cannot send JSON as JSON.
    form = client.post(CHAT, content=json.dumps(ask()), headers={"content-type": "text/plain"})
    assert code(form) == (415, "unsupported_media_type")
    assert open_client(cors=["*"]).get("/v1/models", headers={"origin": "https://evil.com"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b'{"model": NaN}', 400), (b'{"model": "\xff"}', 400), (b'"text"', 400), (b"[]", 400),
        (b"null", 400), (b'{"model": "\\ud800"}', 400), ("{}".encode("utf-16"), 400), (b"[" * 100_000, 400),
        (b"[" * 500 + b"]" * 500, 400), (b'{"a":' * 70 + b"1" + b"}" * 70, 400), (b" " * (2 << 20) + b"{}", 413),
    ],
    ids=range(13),
)  # fmt: skip
def test_bodies_that_are_no_request(client: Any, body: bytes, status: int) -> None:
    response = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "application/json; charset=gbk"},
        {"content-type": "application/json", "content-encoding": "gzip"}, {"content-type": "multipart/form-data"},
    ],
)  # fmt: skip
def test_bodies_in_another_dress(client: Any, headers: dict[str, str]) -> None:
    assert client.post(CHAT, content=json.dumps(ask()), headers=headers).status_code == 415


def test_json_may_be_named_with_its_charset(client: Any) -> None:
    headers = {"content-type": 'application/json; charset="UTF-8"'}
    assert client.post(CHAT, content=json.dumps(ask()), headers=headers).status_code == 200


def test_a_body_without_end_is_cut_off_while_it_is_read(client: Any) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b" " * 100_000

    response = client.post(CHAT, content=endless(), headers={"content-type": "application/json"})
    assert code(response) == (413, "body_too_large")


def test_headers_are_bounded(client: Any) -> None:
    assert code(client.get("/health", headers={"x": "a" * 40_000})) == (431, "headers_too_large")
    assert code(client.get("/health", headers={f"x{n}": "a" for n in range(120)})) == (431, "headers_too_large")


def test_two_lengths_of_one_body(client: Any) -> None:
    headers = {"content-type": "application/json", "content-length": "2", "transfer-encoding": "chunked"}
    assert code(client.post(CHAT, content=b"{}", headers=headers)) == (400, "bad_framing")


def test_while_it_stops_nothing_new_is_taken(own_client: Any, served: Any) -> None:
    served.is_closing = True
    response = own_client.post(CHAT, json=ask())
    assert code(response) == (503, "server_closing")
    assert response.headers["retry-after"]
    assert own_client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b" ", "是空的"),
        ('{"model": "你"}'.encode("gb18030"), "不是 UTF-8: 从第 12 个字节起读不出来 (GBK 的要先转成 UTF-8)"),
        (b'{"model":\n  tiny}', "不是 JSON: 第 2 行第 3 个字符起读不下去"),
    ],
)
def test_why_a_body_is_no_json_is_told(client: Any, body: bytes, why: str) -> None:
    response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert response.json()["error"]["message"].startswith(f"请求的内容{why}")
