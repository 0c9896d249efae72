"""Who waits long is told for what; who does not is left in peace. No test here waits."""

from __future__ import annotations

import faulthandler
import threading
from pathlib import Path
from typing import Any

import pytest

from hantune.train.heartbeat import EVERY, FIRST, LOOK_EVERY, STACKS_AFTER, Heartbeat


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def passes(clock: Clock, heart: Heartbeat, seconds: float) -> None:
    """Time goes by, and the heart looks as often as its thread would."""
    for _ in range(round(seconds / LOOK_EVERY)):
        clock.now += LOOK_EVERY
        heart.look()


def test_the_first_line_comes_after_a_while_and_then_one_every_minute(clock: Clock) -> None:
    said: list[str] = []
    heart = Heartbeat(say=said.append, clock=clock)
    with heart.on("step", "第 1 步", lambda: "这一步 9000 个词元"):
        passes(clock, heart, FIRST - LOOK_EVERY)
        assert said == []
        passes(clock, heart, LOOK_EVERY)
        assert len(said) == 1
        assert "第 1 步" in said[0]
        assert "30 秒" in said[0]
        assert "这一步 9000 个词元" in said[0]
        passes(clock, heart, 5 * EVERY)
        assert len(said) == 6
    passes(clock, heart, 10 * EVERY)
    assert len(said) == 6, "between two pieces of work nothing is waited for"


def test_steps_that_are_all_slow_are_no_news(clock: Clock) -> None:
    said: list[str] = []
    heart = Heartbeat(say=said.append, clock=clock)
    with heart.on("step", "第 1 步"):
        passes(clock, heart, 100)
    told = len(said)
    for number in range(2, 5):
        with heart.on("step", f"第 {number} 步"):
            passes(clock, heart, 250)
    assert len(said) == told
    with heart.on("step", "第 5 步"):
        passes(clock, heart, 800)
    assert len(said) > told
    assert "第 5 步" in said[told]


def test_kinds_of_work_have_their_own_times(clock: Clock) -> None:
    said: list[str] = []
    heart = Heartbeat(say=said.append, clock=clock)
    with heart.on("evaluate", "评测"):
        passes(clock, heart, 600)
    said.clear()
    with heart.on("step", "第 1 步"):
        passes(clock, heart, FIRST)
    assert len(said) == 1


def test_the_line_says_where_the_work_stands(clock: Clock) -> None:
    from hantune.data.pack import largest_batch

    said: list[str] = []
    heart = Heartbeat(say=said.append, clock=clock)

    class Lengths:
        """Looks at the heart from inside a function of hantune."""

        def __neg__(self) -> Any:
            clock.now += FIRST
            heart.look()
            raise KeyError

    with heart.on("step", "第 1 步"), pytest.raises(KeyError):
        largest_batch(Lengths(), batch_size=1, batch_tokens=None, layout="sorted")  # type: ignore[arg-type]
    assert "正在 data/pack.py:" in said[0]
    assert "largest_batch" in said[0]


def test_the_thread_looks_and_ends_with_the_loop(clock: Clock) -> None:
    said: list[str] = []
    turns = threading.Semaphore(0)
    looked = threading.Event()

    def wait(end: threading.Event, seconds: float) -> bool:
        if said:
            looked.set()
        if not end.is_set() and not looked.is_set():
            turns.acquire()
            clock.now += seconds
        return end.wait() if looked.is_set() else end.is_set()

    before = threading.active_count()
    with Heartbeat(say=said.append, clock=clock, wait=wait) as heart, heart.on("step", "第 1 步"):
        for _ in range(round(FIRST / LOOK_EVERY)):
            turns.release()
        looked.wait()
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert len(said) == 1


def test_an_error_of_the_work_comes_through_and_ends_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Heartbeat() as heart, heart.on("step", "第 1 步"):
        _ = 1 / 0
    assert threading.active_count() == before


def test_stacks_are_put_off_while_all_goes_well_and_come_when_it_does_not(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed: list[tuple[float, Any]] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, file: armed.append((seconds, file)))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: armed.append((0, None)))
    never = lambda end, seconds: end.wait()  # noqa: E731
    with Heartbeat(tmp_path / "log.txt", say=lambda text: None, clock=clock, wait=never) as heart:
        with heart.on("step", "第 1 步"):
            passes(clock, heart, FIRST - LOOK_EVERY)
            calm = len(armed)
            assert calm == round(FIRST / LOOK_EVERY) - 1
            assert {seconds for seconds, _ in armed} == {STACKS_AFTER}
            passes(clock, heart, 10 * EVERY)
            assert len(armed) == calm, "a hang lets them come"
        assert armed[-1][1].name == str(tmp_path / "log.txt")
    assert armed.pop() == (0, None)
    assert all(file.closed for _, file in armed)
