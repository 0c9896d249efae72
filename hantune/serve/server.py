"""The process that serves, and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hantune.log import console
from hantune.serve.address import cannot_listen
from hantune.serve.door import HEADER_BYTES
from hantune.serve.protocol import Protocol
from hantune.serve.served import Served

KEEP_ALIVE_SECONDS = 75
"""Longer than the minute after which proxies in front usually drop an idle connection: they should be the first."""
LAST_SECONDS = 5
"""For readers to take the last bytes, after the answers ended."""


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C new requests get 503 while those in progress end; a second signal ends them too.

    ``signal``: what stopped it; None: the scheduler died.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        served: Served,
        drain_seconds: float,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self.signal: int | None = None
        self._served = served
        self._drain_seconds = drain_seconds
        self._closing: asyncio.Task[None] | None = None
        self._is_urgent = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Only notes it: a signal may come while the scheduler's lock is held."""
        self._is_urgent = self.signal is not None
        self.signal = self.signal or sig

    async def on_tick(self, counter: int) -> bool:
        if self.signal is not None and self._closing is None:
            self._close(self._drain_seconds)
            stats = self._served.scheduler.stats()
            if left := stats.running + stats.queued:
                console.say(f"正在停止: 等 {left} 个回答, 最多 {self._drain_seconds:g} 秒; 再按一次 Ctrl-C 立刻停")
        if self._is_urgent:
            self._is_urgent = False
            self._close(0.0)
        if self._closing is not None and self._closing.done():
            self.should_exit = True
        if self._served.is_dead:
            self.should_exit = True
        return await super().on_tick(counter)

    def _close(self, seconds: float) -> None:
        self._served.is_closing = True
        self._closing = asyncio.create_task(asyncio.to_thread(self._served.scheduler.close, seconds))


def configuration(app: FastAPI) -> uvicorn.Config:
    """uvicorn's settings: our protocol and log, no web sockets, no trust in headers that proxies add."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )


def run(
    app: FastAPI, served: Served, listening: socket.socket, *, drain_seconds: float, announce: Callable[[], None]
) -> int | None:
    """Serve until a signal; returns its number, or None where the scheduler died. ``announce``: once it answers.

    Raises: MachineError ``serve.port-in-use``.
    """
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it would say stands in our log, or is noise
    server = Server(configuration(app), served, drain_seconds, announce)
    try:
        server.run(sockets=[listening])
    except OSError as error:  # another server that began to listen while the model was loaded
        host, port = listening.getsockname()[:2]
        raise cannot_listen(host, port, error) from None
    finally:
        served.scheduler.close()
    return server.signal
