"""HTTP/1.1 with the patience of uvicorn's limited: for headers, for readers, and in the number of connections."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hantune.serve.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Protocol(H11Protocol):
    """One connection. What a client may take its time for, it may take at most these seconds for."""

    request_seconds: ClassVar[float] = 10.0
    """From the first byte (or the connection) to the end of the headers; also for a body nobody wants any more."""
    write_seconds: ClassVar[float] = 60.0
    """For reading what waits to be sent, once it is more than a buffer holds."""
    close_seconds: ClassVar[float] = 10.0
    """For reading the last of it after the connection was closed on this side."""
    most_connections: ClassVar[int] = 512

    _patience: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > self.most_connections:
            others = (one for one in self.connections if one is not self and isinstance(one, Protocol))
            self._make_room(others)

    def _make_room(self, others: Iterable[Protocol]) -> None:
        """Drop a connection without a request in it; where each has one, this one goes."""
        idle = next((one for one in others if not one.is_busy), None)
        if idle is None:
            self._refuse(503, "连接太多, 稍后再试", "too_many_connections")
        else:
            idle.transport.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.is_busy:
            self._stop(self._patience)
            self._patience = None
        elif not self.transport.is_closing():
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._patience)
        self._stop(self._writing)
        super().connection_lost(exc)

    def _await_request(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(self.request_seconds, self.transport.abort)

    def _stop(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop(self._writing)
        self._writing = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(self._writing)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.close_seconds, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets an error in the shape of all others; headers without end 431."""
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
        self._refuse(431 if hint == 431 else 400, "请求不是完整的 HTTP, 或者请求头太大", "bad_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.is_busy:
            self.transport.abort()
            return
        body = ApiError(status, message, code=code).response().body
        headers: list[tuple[bytes, Any]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        start = h11.Response(status_code=status, headers=headers)
        for event in (start, h11.Data(data=bytes(body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self.loop.call_later(self.close_seconds, self.transport.abort)
