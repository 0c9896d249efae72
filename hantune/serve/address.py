"""The address that a server waits at. Light: it is taken, or refused, before a model is loaded."""

from __future__ import annotations

import errno
import socket
import sys

from hantune.errors import ConfigError, MachineError


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
        raise cannot_listen(host, port, error) from None
    found.setblocking(False)
    return found


def cannot_listen(host: str, port: int, error: OSError) -> MachineError:
    """Why an address cannot be had."""
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
