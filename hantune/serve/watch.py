"""The outermost layer: every request gets an id, a line in the log, and an answer in OpenAI's shape whatever comes."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hantune.log import console
from hantune.serve.errors import as_api_error

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LONGEST_PATH = 120


class Watch:
    """ASGI middleware. ``answered`` counts requests by (route, status); ``write`` takes the lines of the access log.

    A line holds no text of a user or a model, no key, and no query string (somebody may have put a key there).
    """

    def __init__(
        self, app: ASGIApp, *, answered: Counter[tuple[str, int]], write: Callable[[str], None] | None
    ) -> None:
        self._app = app
        self._answered = answered
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["hantune.note"] = note = {}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            refused = as_api_error(error)
            if refused.status == 500:
                note["error"] = f"{type(error).__name__}"
                _tell(error)
            if not status:
                await refused.response()(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._answered[route, status] += 1
            if self._write:
                self._write(_line(scope, request_id, status, time.monotonic() - started, note))


def _tell(error: BaseException) -> None:
    """Where an unexpected error came from; not its message, which may hold what a user wrote."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    console.warn(f"内部出错: {type(error).__name__}{place}")


def _line(scope: Scope, request_id: str, status: int, seconds: float, note: dict[str, Any]) -> str:
    """One JSON object in ASCII: what a client sends cannot start a new line or colour a terminal."""
    client = scope.get("client")
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "id": request_id,
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:LONGEST_PATH],
        "status": status,
        "seconds": round(seconds, 3),
        **note,
    }
    return json.dumps(record)
