"""``checklist.chk``: the md5 of every file of a Meta release, computed in a thread from what the conversion reads.

So the disk is read once, and the sum costs no time where there is a second core.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from hantune.errors import ModelError
from hantune.log import console
from hantune.models.headers import is_plain_name
from hantune.paths import quoted

NAMES = ("checklist.chk", "tokenizer_checklist.chk")
LINE = re.compile(r"([0-9a-fA-F]{32})[ *]+(.+)")
EDITED = "params.json"
"""People edit it (its vocabulary of -1), so another md5 is no damage; what it says is checked against the weights."""
BLOCK_BYTES = 8 << 20
WAIT_SECONDS = 0.2
WAITING = 2


def read_checklists(folders: Sequence[Path]) -> dict[Path, str]:
    """File -> md5 as the lists in ``folders`` give it, files that are there or not. Lists name no other folder's files.

    A line that is none of md5sum's is passed over, as md5sum itself does.
    """
    found: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        for name in NAMES:
            text = (folder / name).read_text(encoding="utf-8", errors="replace") if (folder / name).is_file() else ""
            for match in filter(None, map(LINE.fullmatch, map(str.strip, text.splitlines()))):
                if is_plain_name(match[2]) and match[2] not in NAMES:
                    found[folder / match[2]] = match[1].lower()
    return found


class Checklist:
    """A context in which files are hashed in a thread beside the work that reads them.

    ``feed`` takes what is read; what nobody reads in its turn the thread reads itself. Of bytes that wait to be hashed
    there are at most ``WAITING`` pieces. ``wanted``: file -> md5; files that are not there are left to others.
    """

    def __init__(self, wanted: dict[Path, str]) -> None:
        self.wanted = {path: md5 for path, md5 in wanted.items() if path.is_file() and path.name != EDITED}
        self._sums = {path: _Sum(path) for path in self.wanted}
        self._wrong: list[Path] = []
        self._fault: OSError | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="checklist", daemon=True)

    def __enter__(self) -> Checklist:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._fault = self._fault or OSError("stopped")
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        """Do what comes in; after a fault only take it out, so that nobody waits for room in the queue."""
        while (work := self._queue.get()) is not None:
            try:
                if self._fault is None:
                    work()
            except OSError as error:
                self._fault = error

    def feed(self, path: Path, start: int, view: memoryview) -> None:
        """Bytes of a file from ``start``, which stay as they are."""
        if path in self._sums:
            self._queue.put(functools.partial(self._sums[path].add, start, view))

    def _finish(self, path: Path) -> None:
        if self._sums[path].finish(lambda: self._fault is not None) != self.wanted[path]:
            self._wrong.append(path)

    def require(self) -> None:
        """Return when all files are hashed and right; shows how far it is.

        Raises: ModelError ``model.bad-checksum``; OSError of the thread.
        """
        for path in self.wanted:
            self._queue.put(functools.partial(self._finish, path))
        self._queue.put(None)
        total = sum(path.stat().st_size for path in self.wanted)
        with console.progress("核对 md5", total >> 20, unit="MB", done=self._done >> 20) as bar:
            while self._thread.is_alive():
                self._thread.join(WAIT_SECONDS)
                bar.advance((self._done >> 20) - bar.done)
        if self._fault is not None:
            raise self._fault
        for path in self._wrong:
            raise ModelError(
                "model.bad-checksum",
                f"{path.name} 和 {NAMES[0]} 里的 md5 不同: 下载或拷贝时坏了, 或者被改过",
                place=str(path),
                hint=f"删掉它再重新下载: rm {quoted(path)}",
            )

    @property
    def _done(self) -> int:
        return sum(each.position for each in self._sums.values())


class _Sum:
    """The md5 of one file, up to ``position``."""

    def __init__(self, path: Path) -> None:
        self.position = 0
        self._path = path
        self._digest = hashlib.md5(usedforsecurity=False)

    def add(self, start: int, view: memoryview) -> None:
        """Bytes from ``start``; those between ``position`` and there are read, those before it are known."""
        self._read_until(start, lambda: False)
        fresh = view[max(0, self.position - start) :]
        self._digest.update(fresh)
        self.position += len(fresh)

    def finish(self, is_stopped: Callable[[], bool]) -> str:
        """The md5 of the whole file in hexadecimal."""
        self._read_until(self._path.stat().st_size, is_stopped)
        return self._digest.hexdigest()

    def _read_until(self, end: int, is_stopped: Callable[[], bool]) -> None:
        if end <= self.position:
            return
        with self._path.open("rb", buffering=0) as file:
            file.seek(self.position)
            while self.position < end and not is_stopped():
                block = file.read(min(BLOCK_BYTES, end - self.position))
                if not block:
                    break
                self._digest.update(block)
                self.position += len(block)
