"""What a request passes before it reaches a route: host and origin, key, a place, and a body of bounded size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Sequence

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hantune.serve.errors import ApiError
from hantune.serve.keys import Keys, is_loopback
from hantune.serve.limits import Places

PUBLIC = frozenset({"/", "/docs", "/openapi.json", "/health", "/health/live", "/health/ready"})
"""Paths that need no key: whether it lives, the empty chat page, the description of the interface. Nothing of a model.

Every other path needs one, also those that do not exist: a new route cannot be forgotten.
"""
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
MOST_HEADERS, HEADER_BYTES = 100, 32 << 10
BODY_SECONDS = 30.0
DEEPEST = 64


class Door:
    """ASGI middleware. ``takes_body``: paths that are posted to; ``is_closing``: no more are taken.

    ``wait_seconds``: when a request that found no place may come again.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        places: Places,
        host: str,
        cors: Sequence[str],
        takes_body: Collection[str],
        body_bytes: int,
        is_closing: Callable[[], bool],
        wait_seconds: Callable[[], int],
    ) -> None:
        self._app = app
        self._keys = keys
        self._places = places
        self._is_loopback = is_loopback(host)
        self._cors = frozenset(cors)
        self._takes_body = frozenset(takes_body)
        self._body_bytes = body_bytes
        self._is_closing = is_closing
        self._wait_seconds = wait_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _check_size(headers)
        _check_framing(headers)
        self._check_host(headers)
        if scope["path"] in PUBLIC:
            await self._app(scope, receive, send)
            return
        owner = self._keys.owner(scope["headers"])
        scope["hantune.note"]["key"] = scope["hantune.owner"] = owner
        self._check_origin(scope, headers)
        if scope["method"] != "POST" or scope["path"] not in self._takes_body:
            await self._app(scope, receive, send)
            return
        if self._is_closing():
            refused = {"retry-after": "5", "connection": "close"}
            raise ApiError(503, "服务正在停止, 不再接新的请求", code="server_closing", headers=refused)
        with self._places.place(owner, wait=self._wait_seconds()):
            body = await self._body(headers, receive)
            await self._app(scope, _replay(body, receive), send)

    def _check_host(self, headers: Headers) -> None:
        """A page of another site may resolve its own name to this address (DNS rebinding); its Host gives it away."""
        host = headers.get("host")
        if host is None:  # HTTP/1.0
            return
        match = HOST.fullmatch(host)
        if match is None:
            raise ApiError(400, "Host 不对", code="bad_host")
        if self._is_loopback and not is_loopback(match[1]):
            message = "这个服务只听本机, Host 要是 localhost 或 127.0.0.1; 要从别处连, 用 --host 0.0.0.0 启动"
            raise ApiError(403, message, code="host_not_allowed")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Without a key, a page of another site must not use the server behind its visitor's back."""
        origin = headers.get("origin")
        if origin is None or self._keys or "*" in self._cors or origin in self._cors:
            return
        if origin.partition("://")[2] != headers.get("host"):
            message = "别的网站的网页不能用这个服务; 要允许它, 启动时加 --cors 它的来源"
            raise ApiError(403, message, code="origin_not_allowed")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The body, read whole within its limits and known to be JSON.

        Raises: ApiError 400, 408, 413, 415; ClientDisconnect.
        """
        kind, _, rest = headers.get("content-type", "").partition(";")
        charset = re.sub(r"[\s\"]", "", rest).lower()
        if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
            raise ApiError(415, "Content-Type 要是 application/json (UTF-8)", code="unsupported_media_type")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "不收压缩过的内容", code="unsupported_media_type")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._body_bytes:
            raise self._too_large()
        try:
            body = await asyncio.wait_for(self._read(receive), BODY_SECONDS)
        except asyncio.TimeoutError:
            message = f"{BODY_SECONDS:g} 秒没有收完请求的内容"
            raise ApiError(408, message, code="slow_body", headers={"connection": "close"}) from None
        _check_json(body)
        return body

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> ApiError:
        message = f"请求的内容最多 {self._body_bytes} 字节"
        return ApiError(413, message, code="body_too_large")


def _check_size(headers: Headers) -> None:
    """Raises: ApiError 431."""
    if len(headers.raw) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
        message = f"请求头最多 {MOST_HEADERS} 行, {HEADER_BYTES} 字节"
        raise ApiError(431, message, code="headers_too_large", headers={"connection": "close"})


def _check_framing(headers: Headers) -> None:
    """Two ways of saying how long the body is: a proxy in front may believe the other one.

    Raises: ApiError 400.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        message = "Transfer-Encoding 和 Content-Length 不能一起用"
        raise ApiError(400, message, code="bad_framing", headers={"connection": "close"})


def _check_json(body: bytes) -> None:
    """Nothing, if it is JSON (UTF-8, no NaN, no half characters) that is not nested beyond reason.

    Raises: ApiError 400.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"请求的内容{_why_no_json(body, error)}", code="invalid_json") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ApiError(400, f"JSON 最多套 {DEEPEST} 层", code="invalid_json")


def _why_no_json(body: bytes, error: orjson.JSONDecodeError) -> str:
    if not body.strip():
        return "是空的"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as found:
        return f"不是 UTF-8: 从第 {found.start + 1} 个字节起读不出来 (GBK 的要先转成 UTF-8)"
    return f"不是 JSON: 第 {error.lineno} 行第 {error.colno} 个字符起读不下去 ({error.msg})"


def _replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` that gives the body that was read already, then what comes after it."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
