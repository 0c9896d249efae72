"""Errors as clients of OpenAI's API read them: ``{"error": {"message", "type", "param", "code"}}`` and a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hantune.errors import DataError, HantuneError
from hantune.log import console
from hantune.serve.wire import Json

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 413: "invalid_request_error", 415: "invalid_request_error",
    429: "rate_limit_error", 431: "invalid_request_error", 500: "server_error", 503: "unavailable_error",
}  # fmt: skip
"""Every status that the server answers besides 200 -> ``type``."""
KNOWN = {
    "infer.prompt-too-long": (400, "context_length_exceeded"),
    "infer.no-adapter": (404, "model_not_found"),
    "infer.queue-full": (429, "queue_full"),
    "infer.closed": (503, "server_closing"),
    "infer.sampling": (400, "invalid_value"),
    "infer.step-failed": (500, "generation_failed"),
}
"""Codes of hantune -> status and OpenAI's code."""
WORDS = {
    "greater_than_equal": "至少 {ge}", "less_than_equal": "最多 {le}", "less_than": "要小于 {lt}",
    "finite_number": "要一个有限的数", "too_long": "最多 {max_length} 个", "too_short": "至少 {min_length} 个",
    "string_too_long": "最多 {max_length} 个字符", "string_too_short": "至少 {min_length} 个字符",
    "literal_error": "要 {expected}", "string_type": "要字符串", "int_type": "要整数", "float_type": "要数字",
    "bool_type": "要 true 或 false", "list_type": "要数组", "dict_type": "要对象", "model_type": "要对象",
    "model_attributes_type": "要对象", "int_parsing_size": "数太大",
}  # fmt: skip
"""What pydantic says, by its type of error."""
NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients repeat 408, 409, 429 and 5xx by themselves; this says that it would only fail again."""
PARAMS = {"stops": "stop", "logprobs": "top_logprobs"}
"""Our names of parameters -> OpenAI's, where they differ."""


class ApiError(Exception):
    """A request that gets no answer: status, what to tell, and which field was wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Json:
        return Json(self.body, self.status, self.headers)


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told about an error of hantune; about any other only that there was one."""
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, HantuneError):
        return ApiError(500, "服务器内部出错, 原因在服务器的日志里", code="internal_error", headers=NO_RETRY)
    status, code = KNOWN.get(error.code, (400 if isinstance(error, DataError) else 500, error.code))
    headers = {}
    if status == 500:
        console.warn(f"{error}")
        headers = NO_RETRY
    param = "messages" if error.code in ("infer.prompt-too-long", "template.roles") else error.place
    hint = f". {error.hint}" if error.hint and status != 500 else ""
    return ApiError(
        status, error.message + hint, code=code, param=PARAMS.get(param or "", param), headers=headers
    )


def invalid(errors: Sequence[Any]) -> ApiError:
    """The 400 for what pydantic found: of a union's branches the one of the right type, or that fails deepest."""
    worst = max(errors, key=lambda error: (not error["type"].endswith("_type"), len(error["loc"])))
    # Names of union branches (`list[TextPart]`, `str`) stand among the keys; they are no part of the request.
    keys = [key for key in worst["loc"][1:] if isinstance(key, int) or (str(key).isidentifier() and key != "str")]
    param = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".") or None
    if worst["type"] == "missing":
        return ApiError(400, f"缺少 {param or '请求的内容'}", code="missing_field", param=param)
    if worst["type"] == "json_invalid":
        return ApiError(400, "请求的内容不是 JSON", code="invalid_json")
    told = WORDS.get(worst["type"])
    why = told.format(**worst.get("ctx", {})).replace(" or ", " 或 ") if told else worst["msg"]
    return ApiError(400, f"{param or '请求的内容'} 不对: {why}", code="invalid_value", param=param)
