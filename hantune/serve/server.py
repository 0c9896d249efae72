"""The process that serves: an address of its own, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hantune.errors import ConfigError, MachineError
from hantune.log import console
from hantune.serve.protocol import Protocol
from hantune.serve.served import Served

HEADER_BYTES = 32 << 10
KEEP_ALIVE_SECONDS = 15
LAST_SECONDS = 5
"""For readers to take the last bytes, after the answers ended."""


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address, taken before the model is loaded. Port 0: any that is free.

    Raises: ConfigError ``serve.bad-address``; MachineError ``serve.port-in-use``, ``serve.cannot-listen``.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError, OverflowError):
        raise ConfigError(
            "serve.bad-address",
            f"不认识的地址: {host}:{port}",
            place="--host",
            hint="只给本机用: --host 127.0.0.1; 给别的机器用: --host 0.0.0.0",
        ) from None
    found = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _cannot_listen(host, port, error) from None
    found.setblocking(False)
    return found


def _cannot_listen(host: str, port: int, error: OSError) -> MachineError:
    if error.errno == errno.EADDRINUSE:
        return MachineError(
            "serve.port-in-use",
            f"端口 {port} 已经有程序在用",
            place=f"{host}:{port}",
            hint=f"换一个端口: --port {port + 1}; 或者找出是谁: ss -ltnp | grep {port}",
        )
    why = "没有权限用 1024 以下的端口" if error.errno == errno.EACCES else error.strerror or str(error)
    return MachineError(
        "serve.cannot-listen",
        f"不能在这个地址等待连接: {why}",
        place=f"{host}:{port}",
        hint="换一个端口: --port 8000; 地址要是这台机器自己的: --host 127.0.0.1 或 0.0.0.0",
    )


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C new requests get 503 while those in progress end; a second signal ends them too.

    ``signal``: what stopped it; None: the scheduler died.
    """

    def __init__(self, config: uvicorn.Config, served: Served, drain_seconds: float) -> None:
        super().__init__(config)
        self.signal: int | None = None
        self._served = served
        self._drain_seconds = drain_seconds
        self._closing: asyncio.Task[None] | None = None
        self._is_urgent = False

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


def run(app: FastAPI, served: Served, listening: socket.socket, *, drain_seconds: float) -> int | None:
    """Serve until a signal; returns its number, or None where the scheduler died."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it would say stands in our log, or is noise
    config = uvicorn.Config(
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
    server = Server(config, served, drain_seconds)
    try:
        server.run(sockets=[listening])
    except OSError as error:  # another server that began to listen while the model was loaded
        host, port = listening.getsockname()[:2]
        raise _cannot_listen(host, port, error) from None
    finally:
        served.scheduler.close()
    return server.signal
