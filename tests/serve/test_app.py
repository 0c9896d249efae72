"""The application as a whole: every route behind the key, errors in one shape, a description that is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.routing import Route

from hantune.serve.door import PUBLIC
from tests.serve.conftest import KEY, ask

SHAPE = {"message", "type", "param", "code"}


def test_every_route_but_the_public_ones_wants_the_key(open_client: Callable[..., Any]) -> None:
    """A new route cannot forget it: whatever the application has is asked, with each method, and what it lacks too."""
    client = open_client(keys=[KEY])
    paths = {path.replace("{model}", "tiny") for path in client.app.openapi()["paths"]}
    paths |= {route.path.replace("{model:path}", "tiny") for route in client.app.routes if isinstance(route, Route)}
    assert len(paths) >= 12
    for path in [*paths, "/nowhere", "//v1/models", "/v1/../health/x", "/V1/models", "/%2e/v1/models", "/health/"]:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
            response = client.request(method, path, json=ask() if method == "POST" else None)
            expected = {200, 405, 415} if path in PUBLIC else {401}
            assert response.status_code in expected, (method, path)
            if response.status_code == 401 and method != "HEAD":
                assert set(response.json()["error"]) == SHAPE
                assert response.headers["www-authenticate"] == "Bearer"
    assert {"/", "/docs", "/openapi.json", "/health", "/health/live", "/health/ready"} == PUBLIC


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404), ("PUT", "/v1/models", 405), ("GET", "/v1/chat/completions", 405),
        ("GET", "/V1/models", 404),
    ],
)  # fmt: skip
def test_errors_of_the_framework_have_the_shape_of_all_others(
    client: Any, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == SHAPE
    assert status != 405 or response.headers["allow"]


def test_what_goes_wrong_inside_is_not_told_outside(
    own_client: Any, served: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any) -> None:
        raise KeyError("秘密")

    monkeypatch.setattr(type(served.engine), "limit", property(fail), raising=False)
    response = own_client.get("/v1/models")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "秘密" not in response.text
    told = capsys.readouterr().err
    assert "KeyError" in told
    assert "秘密" not in told


def test_cors_is_off_unless_an_origin_is_named(open_client: Callable[..., Any]) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed = open_client(keys=[KEY]).options("/v1/chat/completions", headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    client = open_client(keys=[KEY], cors=["https://a.example"])
    allowed = client.options("/v1/chat/completions", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in allowed.headers
    other = client.options("/v1/chat/completions", headers=asked | {"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
    answer = client.post(
        "/v1/chat/completions", json=ask(), headers={"origin": "https://a.example", "authorization": f"Bearer {KEY}"}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_the_description_names_every_answer(open_client: Callable[..., Any]) -> None:
    schema = open_client(keys=[KEY]).get("/openapi.json").json()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert {"200", "400", "401", "404", "413", "429", "503"} <= set(operation["responses"])
            assert ("security" in operation) == (path not in PUBLIC)
    chat = schema["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(chat) == {"application/json", "text/event-stream"}
