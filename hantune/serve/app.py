"""The application: routes behind the door, behind the watch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from hantune import __version__
from hantune.serve import chat, completions, legacy, plain
from hantune.serve.door import PUBLIC, Door
from hantune.serve.errors import ApiError, invalid
from hantune.serve.keys import Keys
from hantune.serve.limits import Places
from hantune.serve.openai import ErrorBody
from hantune.serve.served import Served
from hantune.serve.watch import Watch

REFUSALS = {
    400: "The request is wrong.", 401: "No key, or a wrong one.", 403: "Host or origin is not allowed.",
    404: "There is no such model.", 408: "The body came too slowly.", 413: "The body is too large.",
    415: "The body is not JSON.", 429: "Too many requests; see Retry-After.", 431: "The headers are too large.",
    500: "The answer failed.", 503: "The server stops, or the answer took too long.",
}  # fmt: skip
SLACK = 16
"""Requests in the house beyond those that are answered or wait: they are being read, refused, or served from memory."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server treats its clients. ``seconds``: the longest an answer may take; ``per_key``: requests at a time."""

    host: str = "127.0.0.1"
    keys: Sequence[str] = ()
    cors: Sequence[str] = ()
    seconds: float = 600.0
    per_key: int | None = None
    body_bytes: int = 2 << 20
    log: Callable[[str], None] | None = None


def build(served: Served, settings: Settings) -> FastAPI:
    """The ASGI application that answers for ``served``."""
    app = FastAPI(
        title="hantune",
        version=__version__,
        description="Chat models over OpenAI's API, and over the polling protocol /stream.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": ErrorBody, "description": words} for status, words in REFUSALS.items()},
    )
    scheduler = served.scheduler
    places = Places(scheduler.max_batch + scheduler.max_queue + SLACK, settings.per_key)
    keys = Keys(settings.keys)
    app.state.served = served
    app.state.seconds = settings.seconds
    app.state.places = places
    app.state.answered = answered = Counter[tuple[str, int]]()
    app.state.sessions = legacy.Sessions(served)
    for part in (chat, completions, legacy, plain):
        app.include_router(part.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    _describe(app, has_keys=bool(keys))
    app.add_middleware(
        Door,
        keys=keys,
        places=places,
        host=settings.host,
        cors=settings.cors,
        takes_body=[path for path, operations in app.openapi()["paths"].items() if "post" in operations],
        body_bytes=settings.body_bytes,
        is_closing=lambda: served.is_closing,
        wait_seconds=served.wait_seconds,
    )
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Watch, answered=answered, write=settings.log)
    return app


async def _api_error(request: Request, error: Exception) -> Response:
    return cast(ApiError, error).response()


async def _http_error(request: Request, error: Exception) -> Response:
    """404, 405 and unreadable bodies, which the frameworks below report."""
    found = cast(HTTPException, error)
    words = {
        400: ("请求的内容读不出来", "invalid_json"),
        404: ("没有这个地址", "not_found"),
        405: ("这个地址不收这种请求", "method_not_allowed"),
    }
    message, code = words.get(found.status_code, (str(found.detail), None))
    return ApiError(found.status_code, message, code=code, headers=found.headers).response()


async def _invalid(request: Request, error: Exception) -> Response:
    problem = invalid(cast(RequestValidationError, error).errors())
    return legacy.refusal(problem) if request.url.path == legacy.PATH else problem.response()


def _describe(app: FastAPI, *, has_keys: bool) -> None:
    """``/openapi.json`` as this server behaves: 400, not FastAPI's 422, and keys where there are any."""
    plain_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = plain_openapi()
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if has_keys and path not in PUBLIC:
                    operation["security"] = [{"key": []}]
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        if has_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
