"""The console (stderr) and the event log of a run (``events.jsonl``).

stdout belongs to results and is written only by ``cli/``. Everything here goes to stderr, uses only characters that a
GBK console can encode, and shows an ETA for whatever takes longer than two seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hantune.env import environment

REFRESH_SECONDS = 0.2
"""How often a bar on a terminal is drawn anew."""
BAR, SHORTEST_BAR = 20, 5
"""Blocks of a bar, and of one that has to leave room for the rest of its line."""
COLUMNS = 80
"""Of a terminal that does not tell its width."""
LINE_SECONDS = 10.0
"""How often a bar that is not on a terminal prints a line."""


class Console:
    """Lines, warnings and progress on stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self.quiet = False
        self.debug = False
        self.may_ask = False
        self.as_json = False
        """Whether stdout is kept for one JSON object."""
        self.warnings: list[str] = []
        self._bar_drawn = False
        self._copy: TextIO | None = None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def copied_to(self, path: Path) -> Iterator[None]:
        """Append every line (no bars) to ``path`` as well, also under ``--quiet``: ``log.txt`` of a run."""
        with path.open("a", encoding="utf-8", errors="replace") as self._copy:
            try:
                yield
            finally:
                self._copy = None

    def _note(self, line: str) -> None:
        if self._copy is not None:
            self._copy.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
            self._copy.flush()

    @property
    def stream(self) -> TextIO:
        """stderr as it is now (tests and notebooks replace it)."""
        return self._stream or sys.stderr

    @property
    def is_terminal(self) -> bool:
        """Whether bars may be redrawn in place."""
        return self.stream.isatty() and not environment().dumb_terminal

    @property
    def can_ask(self) -> bool:
        """Whether somebody sits there who can be asked: never under ``--json`` and ``--quiet``, in a pipe, a job."""
        return self.may_ask and sys.stdin.isatty() and self.stream.isatty()

    def say(self, text: str = "") -> None:
        """One line of progress; silent under ``--quiet``."""
        self._note(text)
        if not self.quiet:
            self._write(text + "\n")

    def warn(self, text: str) -> None:
        """A line that also enters ``warnings`` of ``--json`` output, shown even under ``--quiet``."""
        self.warnings.append(text)
        self._note(f"! {text}")
        self._write(f"! {text}\n")

    def _write(self, text: str) -> None:
        """A GBK or ASCII console must never stop the work: what it cannot show becomes ``?``."""
        encoding = self.stream.encoding or "utf-8"
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            if self._bar_drawn:
                text = "\r\x1b[K" + text
                self._bar_drawn = False
            self.stream.write(text.encode(encoding, "replace").decode(encoding, "replace"))
            self.stream.flush()

    def draw(self, bar: Progress) -> None:
        """Redraw a bar in place (terminals only) on one line: what wraps could not be drawn over."""
        columns = self._columns() - 1
        too_long = max(0, self._width(bar.line()) - columns)
        text = bar.line(max(SHORTEST_BAR, BAR - too_long))
        while self._width(text) > columns:
            text = text[:-1]
        with self._lock:
            self._write("\r\x1b[K" + text)
            self._bar_drawn = True

    def _columns(self) -> int:
        """Of the terminal that stderr is, wherever stdout goes."""
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self.stream.fileno()).columns or COLUMNS
        return COLUMNS

    def _width(self, text: str) -> int:
        """Columns that ``text`` takes; blocks and lines take two on a Chinese console."""
        wide = "WFA" if (self.stream.encoding or "").lower().startswith("gb") else "WF"
        return sum(2 if unicodedata.east_asian_width(character) in wide else 1 for character in text)

    @contextlib.contextmanager
    def progress(
        self, title: str, total: int | None = None, *, unit: str = "条", done: int = 0
    ) -> Iterator[Progress]:
        """A bar with share, rate and ETA: ``with console.progress("分词", 1000) as bar: bar.advance(10)``.

        ``done``: parts that an earlier process finished; they do not count for the rate.
        """
        bar = Progress(self, title, total, unit, done)
        try:
            yield bar
        finally:
            bar.close()


class Progress:
    """One piece of work with a known or unknown number of parts."""

    def __init__(self, console: Console, title: str, total: int | None, unit: str, done: int = 0) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._unit = unit
        self._start = time.monotonic()
        self._now = self._shown = self._start
        self._was_shown = False
        self.done = self._first = done
        self.note = ""
        self.left: float | None = None

    def advance(self, parts: int = 1, note: str | None = None, left: float | None = None) -> None:
        """``parts`` more are done; ``note`` stands behind the bar (a loss, a rate).

        ``left``: seconds to the end, from one who knows better than the parts done so far.
        """
        self.done += parts
        self.left = left
        if note is not None:
            self.note = note
        now = self._now = time.monotonic()
        if self._console.quiet:
            return
        if self._console.is_terminal:
            if now - self._shown >= REFRESH_SECONDS:
                self._shown = now
                self._was_shown = True
                self._console.draw(self)
        elif now - self._shown >= LINE_SECONDS:
            self._shown = now
            self._was_shown = True
            self._console.say(self.line())

    def line(self, width: int = BAR) -> str:
        """The bar as text: title, share (in ``width`` blocks), count, time left, note."""
        elapsed = self._now - self._start
        parts = [self._title]
        if self._total:
            share = min(1.0, self.done / self._total)
            filled = round(share * width)
            parts.append("█" * filled + "─" * (width - filled))
            parts.append(f"{self.done}/{self._total} {self._unit}")
            if self._first < self.done < self._total:
                even = elapsed / (self.done - self._first) * (self._total - self.done)
                parts.append(f"剩 {duration(even if self.left is None else self.left)}")
        else:
            parts.append(f"{self.done} {self._unit}")
        if self.note:
            parts.append(self.note)
        return "  ".join(parts)

    def close(self) -> None:
        """Leave the last state on the screen if the bar was ever shown."""
        if self._was_shown and self._console.is_terminal:
            self._console.draw(self)
            self._console.say()


def duration(seconds: float) -> str:
    """Seconds as Chinese text: ``45 秒``, ``3 分 20 秒``, ``2 小时 5 分``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} 秒"
    if whole < 3600:
        return f"{whole // 60} 分 {whole % 60} 秒"
    return f"{whole // 3600} 小时 {whole % 3600 // 60} 分"


def size(num_bytes: float) -> str:
    """Bytes as text: ``320 MB``, ``1.5 GB``, in units of 1024 as in ``free`` and ``nvidia-smi``."""
    return f"{num_bytes / 2**30:.1f} GB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MB"


class JsonLines:
    """One JSON object a line, flushed at once so that a killed run has told all it did."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def append(self, record: Mapping[str, Any]) -> None:
        """One line more."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes written so far; stored in a checkpoint so that resuming can drop what came after it."""
        return self._file.tell()

    def truncate(self, offset: int) -> None:
        """Forget everything after ``offset`` bytes: a resumed run writes each step once."""
        self._file.truncate(offset)
        self._file.seek(offset)

    def close(self) -> None:
        self._file.close()


class EventLog(JsonLines):
    """``events.jsonl``."""

    def write(self, kind: str, **values: Any) -> None:
        """Append ``{"event": kind, "time": seconds since 1970, ...}``."""
        self.append({"event": kind, "time": round(time.time(), 3), **values})


def read_events(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The whole lines of an event log; a torn last line (the run was killed) is left out."""
    events: list[dict[str, Any]] = []
    if not path.exists():
        return events
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if kind is None or record.get("event") == kind:
            events.append(record)
    return events


console = Console()
"""The one console of the process; ``cli/`` sets its ``quiet`` and ``debug``."""
