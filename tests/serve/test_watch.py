"""Request ids and the access log."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.serve.conftest import KEY, ask


def test_every_answer_has_an_id_and_a_good_one_is_kept(client: Any) -> None:
    for path in ("/health", "/nowhere", "/v1/models"):
        assert re.fullmatch(r"[0-9a-f]{32}", client.get(path).headers["x-request-id"])
    assert client.get("/health", headers={"x-request-id": "Job-7.a_b"}).headers["x-request-id"] == "Job-7.a_b"
    for bad in ("a b", "x" * 65, "\x1b[31m", "a;b"):
        own = client.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", own)


def test_a_line_for_each_request(open_client: Callable[..., Any]) -> None:
    lines: list[str] = []
    client = open_client(keys=[KEY], log=lines.append)
    client.get("/health", headers={"x-request-id": "one"})
    client.get(f"/v1/models?key={KEY}")
    client.post("/v1/chat/completions", json=ask("问题"), headers={"authorization": f"Bearer {KEY}"})
    client.get("/a%0d%0a%1b[31m%e2%80%a8" + "x" * 500)
    first, second, third, fourth = map(json.loads, lines)
    assert (first["id"], first["status"], first["method"], first["path"]) == ("one", 200, "GET", "/health")
    assert (second["status"], second["path"]) == (401, "/v1/models")
    assert re.fullmatch(r"[0-9a-f]{8}", third["key"])
    assert third["seconds"] >= 0
    assert len(fourth["path"]) <= 120
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert KEY not in line
