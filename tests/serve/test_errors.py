"""Errors of hantune and of pydantic as OpenAI's clients read them."""

from __future__ import annotations

import json

import pytest

from hantune.errors import ConfigError, DataError, HantuneError, MachineError, RefusedError
from hantune.serve.errors import TYPES, ApiError, as_api_error, invalid


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (RefusedError("infer.prompt-too-long", "600 > 512"), 400, "context_length_exceeded", "messages"),
        (RefusedError("infer.no-adapter", "x"), 404, "model_not_found", None),
        (RefusedError("infer.queue-full", "x"), 429, "queue_full", None),
        (RefusedError("infer.closed", "x"), 503, "server_closing", None),
        (ConfigError("infer.sampling", "x", place="stops"), 400, "invalid_value", "stop"),
        (DataError("template.roles", "x"), 400, "template.roles", "messages"),
        (MachineError("infer.step-failed", "x"), 500, "generation_failed", None),
        (HantuneError("some.other", "x"), 500, "some.other", None),
        (KeyError("secret"), 500, "internal_error", None),
    ],
)
def test_each_error_has_a_status_and_a_code(error: Exception, status: int, code: str, param: str | None) -> None:
    found = as_api_error(error)
    assert (found.status, found.code, found.param) == (status, code, param)
    assert "secret" not in found.message
    assert ("x-should-retry" in found.headers) == (status == 500)


def test_the_body_is_openai_s() -> None:
    for status, kind in TYPES.items():
        response = ApiError(status, "为什么", code="c", param="p", headers={"retry-after": "3"}).response()
        assert response.status_code == status
        assert json.loads(response.body) == {
            "error": {"message": "为什么", "type": kind, "param": "p", "code": "c"}
        }
        assert response.headers["retry-after"] == "3"


def test_of_a_union_the_branch_that_was_meant_is_told() -> None:
    branches = [
        {"loc": ("body", "stop", "constrained-str"), "type": "string_type", "msg": ""},
        {"loc": ("body", "stop", "list[constrained-str]"), "type": "too_long", "msg": "", "ctx": {"max_length": 16}},
    ]
    error = invalid(branches)
    assert (error.param, error.message) == ("stop", "stop 不对: 最多 16 个")
    choice = {"loc": ("body", "role"), "type": "literal_error", "msg": "", "ctx": {"expected": "'a', 'b' or 'c'"}}
    assert invalid([choice]).message == "role 不对: 要 'a', 'b' 或 'c'"
    missing = invalid([{"loc": ("body", "messages", 0, "role"), "type": "missing", "msg": ""}])
    assert (missing.param, missing.code) == ("messages[0].role", "missing_field")
    unknown = invalid([{"loc": ("body",), "type": "new_type_of_error", "msg": "as pydantic says"}])
    assert (unknown.param, unknown.message) == (None, "请求的内容 不对: as pydantic says")
