"""A small hub on this machine, for tests: the addresses that downloads need, every request noted, faults on order.

``GET /api/models/ID`` (and ``/revision/R``), ``HEAD|GET /ID/resolve/R/PATH`` with ranges, ``/cdn/SHA256`` for large
files when ``redirect_to`` names another server, and ``/api/v1/models/ID/repo`` as ModelScope has it. A fault is popped
for each request of the file it is ordered for.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 16 * 1024


@dataclass
class Fault:
    """What goes wrong with one answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Bytes after which the line is cut."""
    flip: int | None = None
    """Place of a byte that comes wrong."""
    content: bytes | None = None
    """Other bytes than the listed ones."""
    ignores_range: bool = False


@dataclass
class Request:
    """One request as it came, and the range of the file that was sent."""

    method: str
    path: str
    headers: dict[str, str]
    name: str = ""
    start: int = 0
    sent: int = 0

    @property
    def end(self) -> int:
        return self.start + self.sent


@dataclass
class Repo:
    """``files``: path -> bytes; those longer than ``lfs_over`` are named by their sha256, others by git's sha1."""

    files: dict[str, bytes]
    sha: str = "a" * 40
    gated: bool = False
    private: bool = False
    lfs_over: int = 1000


class HubServer:
    """A context that serves ``repos``; ``url`` is its address, ``log`` what was asked."""

    def __init__(self, repos: dict[str, Repo] | None = None, *, redirect_to: HubServer | None = None) -> None:
        self.repos = repos if repos is not None else {}
        self.redirect_to = redirect_to
        self.etag: Callable[[bytes], str | None] = lambda data: f'"{sha256(data)}"'
        self.token = ""
        self.bytes_per_second = 0.0
        self.api_faults: list[Fault] = []
        self.faults: dict[str, list[Fault]] = {}
        self.log: list[Request] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # killed clients reset their lines
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def blob(self, digest: str) -> tuple[str, bytes] | None:
        """(path, bytes) of the file with this sha256."""
        for repo in self.repos.values():
            for path, data in repo.files.items():
                if sha256(data) == digest:
                    return path, data
        return None

    def asked(self, name: str, method: str = "GET") -> list[Request]:
        """The requests for the bytes of one file."""
        return [each for each in self.log if each.name == name and each.method == method]

    def sent(self) -> int:
        """Bytes of files that were sent in all."""
        return sum(each.sent for each in self.log if each.name)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        # What the log calls sent must not wait in a large buffer that the client never read.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.hub.log.append(request)
        if path == "/api/models":
            self._json([{"id": name, "modelId": name} for name in self.hub.repos])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[3], request)
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo(/files)?", path):
            self._modelscope(found[1], bool(found[2]), request)
        elif found := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            blob = self.hub.blob(found[1])
            self._file(*blob, request) if blob else self._error(404)
        else:
            self._error(404)

    do_HEAD = do_GET

    def _info(self, name: str, revision: str | None) -> None:
        if self.hub.api_faults:
            fault = self.hub.api_faults.pop(0)
            self._error(fault.status, fault.headers)
            return
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_known()):
            self._error(401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", repo.sha):
            self._error(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [self._sibling(path, data, repo) for path, data in repo.files.items()]
            self._json({"id": name, "sha": repo.sha, "gated": "manual" if repo.gated else False, "siblings": siblings})

    def _modelscope(self, name: str, is_listing: bool, request: Request) -> None:
        """The same repositories by the addresses of ModelScope."""
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        repo = self.hub.repos.get(name)
        path = asked.get("FilePath", "")
        if repo is None or asked.get("Revision", "master") != "master":
            self._answer(404, {}, b'{"Code": 10010205001, "Message": "not found", "Success": false}')
        elif is_listing:
            files = [
                {"Path": path, "Name": path, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
                for path, data in repo.files.items()
            ]
            files.append({"Path": "original", "Name": "original", "Type": "tree", "Size": 0})
            self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
        elif path in repo.files:
            self._file(path, repo.files[path], request)
        else:
            self._error(404)

    def _sibling(self, path: str, data: bytes, repo: Repo) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
        if len(data) > repo.lfs_over:
            entry |= {"blobId": "f" * 40, "lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 130}}
        return entry

    def _is_known(self) -> bool:
        return bool(self.hub.token) and self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _resolve(self, name: str, path: str, request: Request) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or path not in repo.files:
            self._error(404, {"X-Error-Code": "EntryNotFound"})
        elif (repo.gated or repo.private) and not self._is_known():
            self._error(401, {"X-Error-Code": "GatedRepo"})
        elif self.hub.redirect_to and len(repo.files[path]) > repo.lfs_over:
            digest = sha256(repo.files[path])
            self._error(302, {"Location": f"{self.hub.redirect_to.url}/cdn/{digest}", "X-Linked-Etag": f'"{digest}"'})
        else:
            self._file(path, repo.files[path], request)

    def _file(self, path: str, data: bytes, request: Request) -> None:
        """The bytes, or the rest of them, or what a fault makes of them."""
        faults = self.hub.faults.get(path, []) if self.command == "GET" else []
        fault = faults.pop(0) if faults else Fault()
        request.name = path
        if fault.status:
            self._error(fault.status, fault.headers)
            return
        data = data if fault.content is None else fault.content
        etag = self.hub.etag(data)
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range", etag) == etag
        request.start = int(found[1]) if found and is_same and not fault.ignores_range else 0
        if request.start > len(data) or (request.start and request.start == len(data)):
            self._error(416)
            return
        self.send_response(206 if request.start else 200)
        if request.start:
            self.send_header("Content-Range", f"bytes {request.start}-{len(data) - 1}/{len(data)}")
        if etag:
            self.send_header("ETag", etag)
        for header, value in fault.headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(data) - request.start))
        self.end_headers()
        if self.command == "GET":
            self._body(data, request, fault)

    def _body(self, data: bytes, request: Request, fault: Fault) -> None:
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 1]) + data[fault.flip + 1 :]
        end = len(data) if fault.cut is None else min(len(data), request.start + fault.cut)
        began = time.monotonic()
        try:
            while request.end < end:
                piece = data[request.end : min(end, request.end + PIECE)]
                self.connection.sendall(piece)
                request.sent += len(piece)
                if rate := self.hub.bytes_per_second:
                    time.sleep(max(0.0, request.sent / rate - (time.monotonic() - began)))
        except OSError:
            self.close_connection = True
        if end < len(data):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: Any) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _error(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._answer(status, headers or {}, b"")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
