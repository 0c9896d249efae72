"""A line on the console when a piece of work takes suspiciously long: what it is, how long, and where it stands.

A thread looks now and then; it touches nothing of the work. After a long silence the stacks of all threads go to
``log.txt``; that is done by ``faulthandler``, which works also while something holds Python itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

from hantune.log import console, duration

FIRST, EVERY = 30.0, 60.0
"""Seconds of silence before the first line, and from one line to the next."""
PATIENCE = 3.0
"""A piece of work may take so many times the longest of its kind before it counts as slow."""
STACKS_AFTER = 600.0
"""Seconds after which the stacks are written."""
LOOK_EVERY = 5.0

Details = Callable[[], str]


class Heartbeat:
    """Watches the thread that makes it. ``clock`` and ``wait`` are the two things a test replaces."""

    def __init__(
        self,
        log: Path | None = None,
        *,
        say: Callable[[str], None] = console.say,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._say = say
        self._clock = clock
        self._wait = wait
        self._log = log
        self._log_file: IO[Any] | None = None
        self._watched = threading.get_ident()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hantune-heartbeat", daemon=True)
        self._longest: dict[str, float] = {}
        self._work: tuple[str, str, Details] | None = None
        self._since = self._late = self._next = clock()

    def __enter__(self) -> Heartbeat:
        if self._log is not None:
            self._log_file = self._log.open("a", encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._log_file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._log_file.close()

    @contextlib.contextmanager
    def on(self, kind: str, title: str, details: Details = str) -> Iterator[None]:
        """The work inside is watched. ``kind``: work that takes alike; ``details`` is asked only when it is late."""
        self._since = self._clock()
        self._late = self._next = self._since + max(FIRST, PATIENCE * self._longest.get(kind, 0.0))
        self._work = (kind, title, details)
        try:
            yield
        finally:
            self._work = None
            self._longest[kind] = max(self._longest.get(kind, 0.0), self._clock() - self._since)

    def look(self) -> None:
        """Say what is being waited for, if it is time to."""
        work, now = self._work, self._clock()
        if work is None or now < self._late:
            self._postpone_stacks()
            return
        if now < self._next:
            return
        self._next = now + EVERY
        _, title, details = work
        where = _place(sys._current_frames().get(self._watched))
        parts = [f"还在等: {title}, 已经 {duration(now - self._since)}", details(), f"正在 {where}" if where else ""]
        self._say("  ".join(part for part in parts if part))

    def _postpone_stacks(self) -> None:
        if self._log_file is not None:
            faulthandler.dump_traceback_later(STACKS_AFTER, file=self._log_file)

    def _watch(self) -> None:
        while not self._wait(self._end, LOOK_EVERY):
            self.look()


def _place(frame: FrameType | None) -> str:
    """The innermost function of hantune that a thread is in: ``train/step.py:61 train``."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("hantune.") and name != __name__:
            return f"{name.removeprefix('hantune.').replace('.', '/')}.py:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
