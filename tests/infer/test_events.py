"""A stream gives each event once, in order, in a thread or in an event loop, and ends."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

from hantune.infer.events import Done, Event, Histogram, Stream, Token

EVENTS: list[Event] = [*(Token(text=str(n), ids=(n,)) for n in range(50)), Done(finish_reason="stop", prompt_tokens=3)]


def fed() -> Stream:
    """A stream that another thread fills."""
    stream = Stream(0, 3)
    threading.Thread(target=lambda: [stream.put(event) for event in EVENTS]).start()
    return stream


def test_a_thread_reads_all_in_order_and_then_nothing() -> None:
    stream = fed()
    assert list(stream) == EVENTS
    assert list(stream) == []
    with pytest.raises(queue.Empty):
        stream.get(timeout=10)
    assert fed().result() == ("".join(map(str, range(50))), EVENTS[-1])


def test_an_event_loop_reads_all_in_order_and_is_not_held_up() -> None:
    async def read(stream: Stream) -> list[Event]:
        return [event async for event in stream]

    async def both() -> list[list[Event]]:
        silent = Stream(1, 1)
        waiting = asyncio.create_task(read(silent))
        found = await read(fed())
        assert not waiting.done()
        silent.put(EVENTS[-1])
        return [found, await waiting]

    assert asyncio.run(both()) == [EVENTS, [EVENTS[-1]]]


def test_a_reader_whose_loop_is_gone_does_not_stop_the_writer() -> None:
    stream = Stream(0, 1)
    stream.put(EVENTS[0])

    async def first() -> Event:
        return await stream.__anext__()

    assert asyncio.run(first()) == EVENTS[0]
    stream.put(EVENTS[-1])
    assert stream.get() == EVENTS[-1]


def test_waiting_ends_in_time() -> None:
    with pytest.raises(queue.Empty):
        Stream(0, 1).get(timeout=0)


def test_a_histogram_counts_between_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.seen(value)
    assert (histogram.counts, histogram.sum) == ((2, 1, 1), 12.0)
    assert Done(finish_reason="stop", prompt_tokens=3, completion_tokens=2).usage["total_tokens"] == 5
