"""Clients that vanish, seen from inside: the model takes no step for them after the one that it is in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from hantune.infer.decode import CachedDecoder
from tests.serve.conftest import Live, ask, is_idle, send, until


class Gate:
    """The model's steps, each let through by the test."""

    def __init__(self) -> None:
        self.entered = 0
        self._may = threading.Semaphore(0)

    def step(self, count: int = 1) -> None:
        """Let ``count`` steps end, and wait for the model to be in the next one."""
        wanted = self.entered + count
        self._may.release(count)
        until(lambda: self.entered == wanted)

    def end_step(self) -> None:
        """Let the step end in which the model is."""
        self._may.release()

    def open(self) -> None:
        self._may.release(1_000_000)

    def enter(self) -> None:
        self.entered += 1
        assert self._may.acquire(timeout=30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found, step = Gate(), CachedDecoder.step

    def gated(self: CachedDecoder) -> None:
        found.enter()
        step(self)

    monkeypatch.setattr(CachedDecoder, "step", gated)
    yield found
    found.open()


def cancelled(live: Live) -> int:
    """How many answers are known to have no reader, and still have their place."""
    return len(live.served.scheduler._cancelled)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("steps", [0, 3], ids=["before the first token", "while it is answered"])
def test_its_place_is_free_at_the_end_of_the_step_that_is_on(
    own: Callable[..., Live], gate: Gate, stream: bool, steps: int
) -> None:
    """It is noticed while the model is in a step, with nothing to be written; the next step would be one too many."""
    live = own()
    connection = send(live, ask(stream=stream, max_tokens=400))
    until(lambda: gate.entered == 1)
    if steps:
        gate.step(steps)
    connection.close()
    until(lambda: cancelled(live) == 1)
    last = gate.entered
    gate.end_step()
    until(lambda: is_idle(live))
    assert gate.entered == last == steps + 1
    assert live.served.scheduler.stats().finished == {"cancelled": 1}


def test_a_hundred_that_vanish_leave_together_and_the_one_that_stays_goes_on(
    own: Callable[..., Live], gate: Gate
) -> None:
    live = own(max_batch=64, max_queue=64)
    stays = send(live, ask(stream=True, max_tokens=3))
    until(lambda: gate.entered == 1)
    gone = [send(live, ask(f"第{number}个", stream=True, max_tokens=400)) for number in range(100)]
    until(lambda: live.served.scheduler.stats().queued == 100)
    gate.step()
    stats = live.served.scheduler.stats()
    assert (stats.running, stats.queued) == (64, 37)
    for connection in gone:
        connection.close()
    until(lambda: cancelled(live) == 100)
    gate.step()
    stats = live.served.scheduler.stats()
    assert (stats.running, stats.queued, stats.finished) == (1, 0, {"cancelled": 100})
    gate.open()
    until(lambda: is_idle(live))
    assert live.served.scheduler.stats().finished["length"] == 1
    stays.close()


def test_one_that_reads_nothing_is_noticed_too(own: Callable[..., Live], gate: Gate) -> None:
    """Its answer stands in the buffers of the connection; nothing more is written before its place is free."""
    live = own()
    connection = send(live, ask(stream=True, logprobs=True, top_logprobs=20, max_tokens=400))
    until(lambda: gate.entered == 1)
    gate.step(40)
    connection.close()
    until(lambda: cancelled(live) == 1)
    gate.end_step()
    until(lambda: is_idle(live))
    assert gate.entered == 41
