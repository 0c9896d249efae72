"""The console never raises, shows an ETA, and the event log survives a kill."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hantune import log
from hantune.log import Console, EventLog, duration, read_events, size


class Stream(io.TextIOWrapper):
    """A text stream in a given encoding, maybe a terminal."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def shown(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "utf-8"])
def test_no_console_can_stop_the_work(encoding: str) -> None:
    stream = Stream(encoding)
    Console(stream).say("汉字 √ → █ 😀 𠮷")
    assert stream.shown().endswith("\n")


def test_our_own_symbols_survive_gbk() -> None:
    stream = Stream("gbk")
    Console(stream).say("√ × → ─ │ █ ★ ●")
    assert stream.shown() == "√ × → ─ │ █ ★ ●\n"


def test_quiet_keeps_warnings() -> None:
    stream = Stream("utf-8")
    console = Console(stream)
    console.quiet = True
    console.say("进度")
    console.warn("小心")
    assert stream.shown() == "! 小心\n"
    assert console.warnings == ["小心"]


def test_a_bar_on_a_terminal_shows_share_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream("utf-8", terminal=True)
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    with Console(stream).progress("训练", 10, unit="步") as bar:
        bar.advance(5, note="损失 1.0")
    shown = stream.shown()
    assert "5/10" in shown
    assert "剩 1 秒" in shown
    assert "损失 1.0" in shown


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
def test_a_bar_never_takes_more_than_a_line(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """What wraps is not drawn over: every redraw would leave a line behind."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(log, "REFRESH_SECONDS", 0)
    stream = Stream(encoding, terminal=True)
    console = Console(stream)
    with console.progress("训练", 1000, unit="步") as bar:
        bar.advance(500)
        for columns in (200, 80, 50, 10):
            size = log.os.terminal_size((columns, 24))
            monkeypatch.setattr(log.os, "get_terminal_size", lambda handle, size=size: size)
            monkeypatch.setattr(stream, "fileno", lambda: 2)
            bar.advance(100, note="损失 2.310  12345 词元/秒  算力 57%  内存 12.1 GB", left=3 * 3600 + 240)
            text = stream.shown().split("\x1b[K")[-1]
            assert console._width(text) < columns
            assert text.startswith("训练  █" if columns == 200 else "训")
            assert ("内存 12.1 GB" in text) == (columns == 200)
            assert ("算力 57%" in text) == (columns >= (80 if encoding == "utf-8" else 200))
            assert ("剩 3 小时 4 分" in text) == (columns >= 50), "the time left is told by one who knows it"


def test_a_bar_in_a_file_prints_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream("utf-8")
    clock = iter(float(second) for second in range(0, 1000, 4))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    with Console(stream).progress("分词") as bar:
        for _ in range(10):
            bar.advance(100)
    lines = stream.shown().splitlines()
    assert 1 <= len(lines) < 10
    assert lines[-1].endswith("条")


def test_short_work_shows_no_bar() -> None:
    stream = Stream("utf-8")
    with Console(stream).progress("快", 3) as bar:
        bar.advance(3)
    assert stream.shown() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 秒"), (59, "59 秒"), (200, "3 分 20 秒"), (7500, "2 小时 5 分")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert [size(number) for number in (0, 5 << 20, 3 << 29)] == ["0 MB", "5 MB", "1.5 GB"]


def test_events_survive_a_torn_last_line_and_can_be_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventLog(path)
    events.write("step", step=1, loss=0.1)
    mark = events.offset()
    events.write("step", step=2)
    events.write("eval", step=2)
    events.truncate(mark)
    events.write("step", step=2, loss=0.2)
    events.close()
    with path.open("ab") as file:
        file.write(b'{"event": "st')
    assert [event["loss"] for event in read_events(path, "step")] == [0.1, 0.2]
    reopened = EventLog(path)
    assert reopened.offset() == path.stat().st_size
    assert read_events(tmp_path / "missing") == []


def test_a_run_keeps_a_copy_of_what_was_said(tmp_path: Path) -> None:
    console = Console(Stream("utf-8"))
    console.quiet = True
    with console.copied_to(tmp_path / "log.txt"):
        console.say("第 1 步")
        console.warn("小心")
    console.say("之后")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["第 1 步", "! 小心"]
