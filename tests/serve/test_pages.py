"""The pages ask nothing but this server, and run nothing but their own script."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_comes_from_elsewhere(client: Any, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"(?m)^\s*//.*|; //.*", "", response.text))
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    for tag in ("script", "style"):
        for source in re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


def test_what_a_model_writes_stays_text(client: Any) -> None:
    page = client.get("/").text
    assert "innerHTML" not in page
    assert "insertAdjacentHTML" not in page
    assert not re.search(r"\son\w+=", page)
    assert page.encode("gbk")


def test_the_description_shows_every_route_and_field(client: Any) -> None:
    page = client.get("/docs").text
    for words in ("POST /v1/chat/completions", "/v1/models/{model}", "top_logprobs", "include_usage", "POST /stream"):
        assert words in page
    assert "number &gt;= 0 &lt;= 2" in page
