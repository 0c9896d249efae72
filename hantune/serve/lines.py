"""OpenAI's batch files: one request a line in, one response a line out.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}
    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "request_id", "body"}, "error": null}

A request that the server would refuse gets the same 4xx here; a line that is no request has ``error`` and no response.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hantune import __version__
from hantune.data.sources import expand, inspect, read_rows
from hantune.data.types import Reject, Row
from hantune.errors import HantuneError
from hantune.infer.engine import Engine
from hantune.infer.events import Logprob
from hantune.infer.lane import Lane, usage
from hantune.infer.sample import SamplingParams
from hantune.serve.chat import ChatShape
from hantune.serve.errors import ApiError, as_api_error, invalid
from hantune.serve.openai import ChatRequest, conversation, seeded

URL = "/v1/chat/completions"
SHAPE = ChatShape()


def is_request(record: Any) -> bool:
    """Whether a record is a line of a batch file, well made or not."""
    return isinstance(record, dict) and {"custom_id", "body"} <= record.keys()


class NoRequest(ApiError):
    """A line that is no request at all: it has no status."""


class OpenAILines:
    """How ``infer.batch`` reads and writes such files."""

    name = "openai"

    refusals = (HantuneError, ApiError)

    def read(self, path: Path) -> Iterator[Row | Reject]:
        seen: set[str] = set()
        for place in expand(str(path)):
            for row in read_rows(inspect(place)):
                if not isinstance(row, Row) or not is_request(row.value):
                    yield row
                    continue
                name = str(row.value["custom_id"])
                if name in seen:
                    detail = f"custom_id {name!r} 前面已经用过"
                    yield Reject(source=row.source, reason="duplicate_custom_id", detail=detail, record=row.value)
                else:
                    yield row
                seen.add(name)

    def lanes(self, engine: Engine, record: Row | Reject, params: SamplingParams) -> Sequence[Lane]:
        """One answer for each of the ``n`` choices; what a line leaves open is as ``params`` say."""
        body = _request(record)
        wanted = body.params(engine.limit)
        for name in ("temperature", "top_p", "seed"):
            if getattr(body, name) is None:
                wanted = replace(wanted, **{name: getattr(params, name)})
        if body.max_tokens is None and body.max_completion_tokens is None:
            wanted = replace(wanted, max_tokens=params.max_tokens)
        messages = conversation(body.messages)
        return [engine.lane(messages, each) for each in seeded(wanted, body.choices)]

    def row(self, engine: Engine, number: int, record: Row, lanes: Sequence[Lane]) -> dict[str, Any]:
        choices = []
        for index, lane in enumerate(lanes):
            scores = [
                Logprob(each.id, engine.piece(each.id), each.value, tuple((t, engine.piece(t), v) for t, v in each.top))
                for each in lane.scores
            ]
            answer = lane.completion()
            choices.append(SHAPE.choice(index, answer.text, scores, answer.finish_reason))
        body = {
            "id": SHAPE.id_prefix + _mark(number, record),
            "object": SHAPE.whole,
            "created": int(time.time()),
            "model": record.value["body"].get("model", "hantune"),
            "system_fingerprint": f"hantune-{__version__}",
            "choices": choices,
            "usage": usage(len(lanes[0].prompt), sum(len(lane.ids) for lane in lanes)),
        }
        return _line(number, record, 200, body)

    def refused(self, number: int, record: Row | Reject, error: Exception) -> dict[str, Any]:
        found = as_api_error(error)
        if isinstance(found, NoRequest):
            return _line(number, record, None, {"code": found.code, "message": found.message})
        return _line(number, record, found.status, found.body)

    def is_error(self, row: Mapping[str, Any]) -> bool:
        return row["response"] is None or row["response"]["status_code"] != 200


def _request(record: Row | Reject) -> ChatRequest:
    """The request of a line.

    Raises: ApiError.
    """
    if isinstance(record, Reject):
        raise NoRequest(400, record.detail, code=record.reason)
    line = record.value
    if not is_request(line) or not isinstance(line["custom_id"], str):
        raise NoRequest(400, "这一行要有 custom_id (文字) 和 body", code="missing_required_parameter")
    if line.get("method", "POST") != "POST" or line.get("url", URL) != URL:
        raise ApiError(400, f"只能是 POST {URL}", code="invalid_url", param="url")
    if not isinstance(line["body"], dict):
        raise ApiError(400, "body 要是一个对象", code="invalid_value", param="body")
    try:
        body = ChatRequest.model_validate({"model": "hantune", **line["body"]})
    except ValidationError as error:
        raise invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None
    body.require_supported()
    if body.stream:
        raise ApiError(400, "批量里不能用 stream", code="invalid_value", param="stream")
    return body


def _line(number: int, record: Row | Reject, status: int | None, body: dict[str, Any]) -> dict[str, Any]:
    mark = _mark(number, record)
    value = record.value if isinstance(record, Row) else record.record
    line = {"id": f"batch_req_{mark}", "custom_id": value.get("custom_id") if isinstance(value, dict) else None}
    if status is None:
        return {**line, "response": None, "error": body}
    return {**line, "response": {"status_code": status, "request_id": f"req_{mark}", "body": body}, "error": None}


def _mark(number: int, record: Row | Reject) -> str:
    """What tells a line from all others, and is the same when it is answered again."""
    value = record.value if isinstance(record, Row) else record.source
    return hashlib.sha256(f"{number} {value!r}".encode("utf-8", "replace")).hexdigest()[:24]
