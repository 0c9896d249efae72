"""One file on its way: what should come, what has come, and the proof that both are the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hantune.models.fetch.retry import Again, Wrong
from hantune.paths import write_json

CHUNK = 1 << 20
SUFFIX = ".part"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a listing: its ``path`` there (slashes), its address (``url`` or a path of this machine), its hash."""

    path: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def is_local(self) -> bool:
        return not self.url.startswith(("http://", "https://"))

    @property
    def has_hash(self) -> bool:
        return bool(self.sha256 or self.git_sha1)


@dataclass(frozen=True)
class Proof:
    """Size and hashes of bytes that are on disk. ``git_sha1``: git's id of such a file, "" if not asked for."""

    size: int
    sha256: str
    git_sha1: str = ""

    @staticmethod
    def of(path: Path, *, git: bool = False, advance: Callable[[int], None] = lambda _: None) -> Proof:
        """The proof of a file, read once from start to end."""
        hashes = _Hashes(path.stat().st_size if git else None)
        with path.open("rb", buffering=0) as file:
            while block := file.read(CHUNK):
                hashes.add(block)
                advance(len(block))
        return hashes.proof()

    def fault(self, file: RemoteFile) -> str:
        """How these bytes differ from those that the listing names; "" where they are the same as far as it says."""
        if file.size not in (None, self.size):
            return f"应有 {file.size:,} 字节, 实有 {self.size:,} 字节"
        if file.sha256 and file.sha256 != self.sha256:
            return f"sha256 应为 {file.sha256[:12]}..., 实为 {self.sha256[:12]}..."
        if file.git_sha1 and file.git_sha1 != self.git_sha1:
            return f"git 校验和应为 {file.git_sha1[:12]}..., 实为 {self.git_sha1[:12]}..."
        return ""


class _Hashes:
    """sha256 of bytes as they come, and git's sha1 where their number is given (git puts it before them)."""

    def __init__(self, git_size: int | None) -> None:
        self._sha256 = hashlib.sha256()
        self._git = None if git_size is None else hashlib.sha1(b"blob %d\0" % git_size, usedforsecurity=False)
        self._size = 0

    def add(self, block: bytes | memoryview) -> None:
        self._sha256.update(block)
        if self._git is not None:
            self._git.update(block)
        self._size += len(block)

    def proof(self) -> Proof:
        return Proof(self._size, self._sha256.hexdigest(), self._git.hexdigest() if self._git else "")


class Part:
    """The bytes of ``file`` that have come; a context that keeps ``NAME.part`` open. ``tell`` hears of every change."""

    def __init__(self, file: RemoteFile, folder: Path, tell: Callable[[int], None] = lambda _: None) -> None:
        self.file = file
        self.done = 0
        self._folder = folder
        self._target = folder / file.path
        self._path, self._state_path = _paths(file, folder)
        self._identity = _identity(file)
        self._tell = tell
        self._etag = self._origin = ""
        self._sends_if_range = True
        self._linked = ""

    @staticmethod
    def waiting(file: RemoteFile, folder: Path) -> int:
        """Bytes of ``file`` that an earlier process left behind and that can be built upon."""
        path, state_path = _paths(file, folder)
        if path.is_symlink() or not path.is_file() or _read(state_path).get("file") != _identity(file):
            return 0
        size = path.stat().st_size
        return size if file.size is None or size <= file.size else 0

    def __enter__(self) -> Part:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._hashes = self._new_hashes()
        if self.waiting(self.file, self._folder):
            state = _read(self._state_path)
            self._etag, self._origin = str(state.get("etag", "")), str(state.get("origin", ""))
            with self._path.open("rb", buffering=0) as file:
                while block := file.read(CHUNK):
                    self._hashes.add(block)
                    self.done += len(block)
        else:
            self._path.unlink(missing_ok=True)
            self._save()
        self._handle = self._path.open("ab", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._handle.close()

    def _new_hashes(self) -> _Hashes:
        return _Hashes(self.file.size if self.file.git_sha1 else None)

    def _save(self) -> None:
        write_json(self._state_path, {"file": self._identity, "etag": self._etag, "origin": self._origin})

    @property
    def is_whole(self) -> bool:
        return self.done == self.file.size

    def headers_for(self, origin: str) -> dict[str, str]:
        """What to ask ``origin`` for: the rest, where it can be trusted to be the rest of the same file."""
        if not self.done:
            return {}
        rest = {"Range": f"bytes={self.done}-"}
        if self._etag and self._origin == origin and self._sends_if_range:
            return rest | {"If-Range": self._etag}
        return rest if self.file.has_hash else {}

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take the sha256 that Hugging Face sends along with a redirect, where the listing had no hash."""
        linked = headers.get("x-linked-etag", "").strip('"').lower()
        if not self.file.has_hash and re.fullmatch(r"[0-9a-f]{64}", linked):
            self._linked = linked

    def accept(self, status: int, headers: Mapping[str, str], origin: str) -> int:
        """How many bytes at the start of an answer 200 or 206 are here already.

        Raises: Again, where the same server must be asked without ``If-Range``; Wrong.
        """
        start, total = 0, _number(headers.get("content-length"))
        if status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", "").strip())
            if not found or int(found[1]) > self.done:
                raise Wrong("服务器给的不是要的那一段")
            start, total = int(found[1]), _number(found[2])
        elif self.done:
            # The file changed, or this server knows no If-Range, or not this machine's ETag. A hash can tell.
            if self.file.has_hash and self._sends_if_range and self._etag:
                self._sends_if_range = False
                raise Again("换一种方式接着下", wait=0)
            self.restart()
        if None not in (total, self.file.size) and total != self.file.size:
            raise Wrong(f"应有 {self.file.size:,} 字节, 服务器上有 {total:,} 字节")
        if self.file.size is None and total is not None:
            self.file = replace(self.file, size=total)
        self._remember(headers.get("etag", ""), origin)
        return self.done - start

    def _remember(self, etag: str, origin: str) -> None:
        """Note a strong ETag and who gave it; a weak one may not be used for ranges."""
        etag = "" if etag.startswith("W/") else etag
        if (etag, origin) != (self._etag, self._origin):
            self._etag, self._origin = etag, origin
            self._save()

    def write(self, block: bytes) -> None:
        """Append what came.

        Raises: Wrong when it is more than there should be.
        """
        view = memoryview(block)
        if self.file.size is not None and self.done + len(view) > self.file.size:
            raise Wrong(f"比应有的 {self.file.size:,} 字节长")
        while len(view):
            written = self._handle.write(view)  # on a full disk it may be less
            self._hashes.add(view[:written])
            self.done += written
            self._tell(written)
            view = view[written:]

    def copy(self) -> None:
        """Append the rest of a file of this machine."""
        with Path(self.file.url).open("rb") as source:
            source.seek(self.done)
            while block := source.read(CHUNK):
                self.write(block)
        if self.file.size is None:
            self.file = replace(self.file, size=self.done)

    def restart(self) -> None:
        """Forget all that came."""
        self._handle.truncate(0)
        self._tell(-self.done)
        self.done = 0
        self._hashes = self._new_hashes()

    def move_in(self) -> Proof:
        """Give the whole file its name.

        Raises: Wrong when its hash is not the listed one.
        """
        proof = self._hashes.proof()
        wanted = replace(self.file, sha256=self.file.sha256 or self._linked or None)
        if fault := proof.fault(wanted):
            raise Wrong(fault)
        os.fsync(self._handle.fileno())
        self._handle.close()
        os.replace(self._path, self._target)
        self._state_path.unlink(missing_ok=True)
        return proof


def _paths(file: RemoteFile, folder: Path) -> tuple[Path, Path]:
    """``NAME.part`` and ``NAME.part.json``."""
    target = folder / file.path
    return target.with_name(target.name + SUFFIX), target.with_name(f"{target.name}{SUFFIX}.json")


def _identity(file: RemoteFile) -> dict[str, Any]:
    """What must be the same for bytes to be built upon: the hash; without one, the address."""
    if file.has_hash:
        return {"size": file.size, "sha256": file.sha256, "git_sha1": file.git_sha1}
    return {"size": file.size, "url": file.url.partition("?")[0]}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,18}", text) else None
